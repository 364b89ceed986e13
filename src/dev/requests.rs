//! A store that counts the requests made of it, as a server would count them.
//!
//! In: requests. Out: the other store's answers, and the numbers of requests and bytes by table and kind. State: these numbers. Failure:
//! that of the other store; a request that failed is counted too.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};
use serde::Serialize;

use crate::process::lock;

/// Requests of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Made {
    pub(super) requests: u64,
    pub(super) bytes: u64,
}

/// What was asked of a store: `counts data put`, `raw log get` and so on.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests(Arc<Mutex<BTreeMap<String, Made>>>);

impl Requests {
    pub(super) fn made(&self) -> BTreeMap<String, Made> {
        lock(&self.0).clone()
    }

    fn note(&self, kind: &str, path: &str, bytes: u64) {
        let table = path.split('/').next().unwrap_or_default();
        let of = if path.contains("/_delta_log") { "log" } else { "data" };
        let mut made = lock(&self.0);
        let made = made.entry(format!("{table} {of} {kind}")).or_default();
        made.requests += 1;
        made.bytes += bytes;
    }

    /// The store whose requests are counted here.
    pub(super) fn of(&self, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(Counting { requests: self.clone(), store })
    }
}

#[derive(Debug)]
struct Counting {
    requests: Requests,
    store: Arc<dyn ObjectStore>,
}

impl Display for Counting {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.store.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Counting {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.requests.note("put", path.as_ref(), payload.content_length() as u64);
        self.store.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.requests.note("put", path.as_ref(), 0);
        let upload = self.store.put_multipart_opts(path, options).await?;
        Ok(Box::new(Upload { requests: self.requests.clone(), path: path.clone(), upload }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let kind = if options.head { "head" } else { "get" };
        let answer = self.store.get_opts(path, options).await;
        let length = |found: &GetResult| found.range.end - found.range.start;
        self.requests.note(kind, path.as_ref(), answer.as_ref().map_or(0, length));
        answer
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        for range in ranges {
            self.requests.note("get", path.as_ref(), range.end - range.start);
        }
        self.store.get_ranges(path, ranges).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let requests = self.requests.clone();
        let noted = paths.inspect(move |path| {
            if let Ok(path) = path {
                requests.note("delete", path.as_ref(), 0);
            }
        });
        self.store.delete_stream(noted.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.requests.note("list", prefix.map_or("", |prefix| prefix.as_ref()), 0);
        self.store.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.requests.note("list", prefix.map_or("", |prefix| prefix.as_ref()), 0);
        self.store.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.requests.note("list", prefix.map_or("", |prefix| prefix.as_ref()), 0);
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.requests.note("put", to.as_ref(), 0);
        self.store.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.requests.note("put", to.as_ref(), 0);
        self.store.rename_opts(from, to, options).await
    }
}

/// An upload in parts.
#[derive(Debug)]
struct Upload {
    requests: Requests,
    path: Path,
    upload: Box<dyn MultipartUpload>,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.requests.note("put", self.path.as_ref(), data.content_length() as u64);
        self.upload.put_part(data).boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.requests.note("put", self.path.as_ref(), 0);
        self.upload.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}
