//! A store that fails on cue: an `ObjectStore` over any other one, with a script of what fails at which durable step.
//!
//! A *step* is one call that changes the store (put, upload begun, part, finished upload, copy, delete), counted from 1 in the order of arrival; a failed try
//! and its retry are two steps. A fault applies once. A frozen store stands for a process that is frozen: the call and all later ones wait
//! until [`Faulty::thaw`] (it continues where it was, as a zombie) or [`Faulty::kill`] (every call is refused for good, so that a job that
//! is considered dead also ends).

use std::collections::BTreeMap;
use std::fmt::{Debug, Display, Formatter};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use tokio::sync::watch;

/// What fails at a step.
pub(crate) enum Fault {
    /// Nothing is written; the error may be temporary.
    Refused,
    /// Nothing is written; permission is denied.
    Denied,
    /// The store's client panics.
    Panic,
    /// Nothing is written; the credentials have expired, in the words of an S3 server.
    Expired,
    /// It is written, and the answer is an error that may be temporary.
    ReplyLost,
    /// The process freezes before it is written.
    FreezeBefore,
    /// It is written, and then the process freezes.
    FreezeAfter,
    /// It takes this long.
    Delay(Duration),
    /// This call and the following ones fail, `calls` in all; with `reads` also those that read, else only those that write.
    Outage {
        /// Calls that fail.
        calls: u64,
        /// Whether reading fails too.
        reads: bool,
    },
    /// Something else happens just before.
    Rival(BoxFuture<'static, ()>),
}

impl Fault {
    /// A rival that does this just before.
    pub(crate) fn rival(action: impl Future<Output = ()> + Send + 'static) -> Fault {
        Fault::Rival(action.boxed())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Runs,
    Frozen,
    Dead,
}

#[derive(Default)]
struct Script {
    steps: Vec<String>,
    reads: Vec<String>,
    at: BTreeMap<usize, Fault>,
    on: Vec<(String, Fault)>,
    /// How many calls still fail, and whether reads do.
    outage: (u64, bool),
    /// The next read of a path that contains this panics.
    read_panic: Option<String>,
}

struct Shared {
    inner: Arc<dyn ObjectStore>,
    script: Mutex<Script>,
    mode: watch::Sender<Mode>,
}

/// The store; clones share the script.
#[derive(Clone)]
pub(crate) struct Faulty(Arc<Shared>);

impl Faulty {
    /// A store that behaves as `inner` does, until a fault is set.
    pub(crate) fn new(inner: Arc<dyn ObjectStore>) -> Faulty {
        Faulty(Arc::new(Shared { inner, script: Mutex::default(), mode: watch::Sender::new(Mode::Runs) }))
    }

    /// Sets a `fault` for a step; the first step is 1.
    pub(crate) fn at(&self, step: usize, fault: Fault) -> &Self {
        self.script().at.insert(step, fault);
        self
    }

    /// Sets a `fault` for the next step on a path that contains `part`.
    pub(crate) fn on(&self, part: &str, fault: Fault) -> &Self {
        self.script().on.push((part.to_owned(), fault));
        self
    }

    /// Lets this many of the next calls fail; with `reads` also those that read, else only those that write.
    pub(crate) fn outage(&self, calls: u64, reads: bool) {
        self.script().outage = (calls, reads);
    }

    /// Lets the next read, or listing, of a path that contains `part` panic.
    pub(crate) fn panics_reading(&self, part: &str) {
        self.script().read_panic = Some(part.to_owned());
    }

    /// The paths of all steps so far.
    pub(crate) fn steps(&self) -> Vec<String> {
        self.script().steps.clone()
    }

    /// The paths of all files that were read so far.
    pub(crate) fn reads(&self) -> Vec<String> {
        self.script().reads.clone()
    }

    /// Whether every fault has been applied, and every outage is over.
    pub(crate) fn done(&self) -> bool {
        let script = self.script();
        script.at.is_empty() && script.on.is_empty() && script.outage.0 == 0 && script.read_panic.is_none()
    }

    /// Whether it is frozen.
    pub(crate) fn frozen(&self) -> bool {
        *self.0.mode.borrow() == Mode::Frozen
    }

    /// Lets a frozen process continue.
    pub(crate) fn thaw(&self) {
        self.0.mode.send_replace(Mode::Runs);
    }

    /// Refuses every call from now on.
    pub(crate) fn kill(&self) {
        self.0.mode.send_replace(Mode::Dead);
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn runs(&self, path: &str) -> Result<()> {
        let mode = self.0.mode.subscribe().wait_for(|mode| *mode != Mode::Frozen).await.map(|mode| *mode);
        match mode {
            Ok(Mode::Dead) => Err(denied(path)),
            _ => Ok(()),
        }
    }

    async fn read(&self, path: &str) -> Result<()> {
        self.runs(path).await?;
        let mut script = self.script();
        let panics = script.read_panic.take_if(|part| path.contains(part.as_str())).is_some();
        assert!(!panics, "by the test at {path}");
        match &mut script.outage {
            (left, true) if *left > 0 => {
                *left -= 1;
                Err(failed("outage"))
            }
            _ => Ok(()),
        }
    }

    /// Makes one step: `write` does it.
    async fn step<T>(&self, path: &Path, write: impl Future<Output = Result<T>>) -> Result<T> {
        self.runs(path.as_ref()).await?;
        let fault = {
            let mut script = self.script();
            script.steps.push(path.to_string());
            let step = script.steps.len();
            let on = script.on.iter().position(|(part, _)| path.as_ref().contains(part.as_str()));
            let fault = match (script.at.remove(&step), on) {
                (Some(fault), _) => Some(fault),
                (None, Some(index)) => Some(script.on.remove(index).1),
                (None, None) => None,
            };
            if let Some(Fault::Outage { calls, reads }) = fault {
                script.outage = (calls, reads);
            }
            if script.outage.0 > 0 {
                script.outage.0 -= 1;
                return Err(failed("outage"));
            }
            fault
        };
        match fault {
            None | Some(Fault::Outage { .. }) => write.await,
            Some(Fault::Refused) => Err(failed("refused")),
            Some(Fault::Denied) => Err(denied(path.as_ref())),
            Some(Fault::Panic) => panic!("by the test at {path}"),
            Some(Fault::Expired) => Err(failed(
                "Server returned non-2xx status code: 400 Bad Request: <Error><Code>ExpiredToken</Code></Error>",
            )),
            Some(Fault::ReplyLost) => match write.await {
                Ok(_) => Err(failed("reply lost")),
                Err(error) => Err(error),
            },
            Some(Fault::FreezeBefore) => {
                self.0.mode.send_replace(Mode::Frozen);
                self.runs(path.as_ref()).await?;
                write.await
            }
            Some(Fault::FreezeAfter) => {
                let result = write.await;
                self.0.mode.send_replace(Mode::Frozen);
                self.runs(path.as_ref()).await?;
                result
            }
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(time).await;
                write.await
            }
            Some(Fault::Rival(action)) => {
                action.await;
                write.await
            }
        }
    }
}

fn failed(what: &str) -> Error {
    Error::Generic { store: "faulty", source: what.into() }
}

fn denied(path: &str) -> Error {
    Error::PermissionDenied { path: path.to_owned(), source: "by the test".into() }
}

impl Debug for Faulty {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "Faulty({:?})", self.0.inner)
    }
}

impl Display for Faulty {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "faulty {}", self.0.inner)
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.step(path, self.0.inner.put_opts(path, payload, options)).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.step(path, self.0.inner.put_multipart_opts(path, options)).await?;
        Ok(Box::new(Upload { store: self.clone(), path: path.clone(), upload }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.read(path.as_ref()).await?;
        self.script().reads.push(path.to_string());
        self.0.inner.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        paths
            .and_then(move |path| {
                let store = store.clone();
                async move {
                    store.step(&path, store.0.inner.delete(&path)).await?;
                    Ok(path)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        async move {
            store.read("listing").await?;
            Ok(store.0.inner.list(prefix.as_ref()))
        }
        .try_flatten_stream()
        .boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix, offset) = (self.clone(), prefix.cloned(), offset.clone());
        async move {
            store.read("listing").await?;
            Ok(store.0.inner.list_with_offset(prefix.as_ref(), &offset))
        }
        .try_flatten_stream()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.read("listing").await?;
        self.0.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.step(to, self.0.inner.copy_opts(from, to, options)).await
    }
}

/// An upload in parts: nothing of it is visible before it is complete. Beginning it, each part and completing it are steps.
#[derive(Debug)]
struct Upload {
    store: Faulty,
    path: Path,
    upload: Box<dyn MultipartUpload>,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (store, path, part) = (self.store.clone(), self.path.clone(), self.upload.put_part(data));
        async move { store.step(&path, part).await }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (store, path) = (self.store.clone(), self.path.clone());
        store.step(&path, self.upload.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}
