//! Stores files while they are being written.
//!
//! In: bytes, from a thread that encodes. Out: one object per file. A file of one part is stored with one request; a larger one as a
//! multipart upload, which becomes visible as a whole. State: one part in each [`Sink`], one on its way, one being stored.
//! Failure: uploads are aborted, and the caller encodes the files again. A kill leaves an upload that nobody sees; the store's
//! lifecycle rule must abort it, because `object_store` does not say the id of an upload.

use std::collections::HashMap;
use std::io::{Error as IoError, Write};
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error as StoreError, MultipartUpload, ObjectStore, ObjectStoreExt};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::write::Out;
use crate::table::TableError;
use crate::table::store::write_file;

/// Bytes of a part. S3 wants at least 5 MiB in each but the last, and at most 10,000 parts: 80 GB.
pub(crate) const PART_BYTES: usize = 8 << 20;

/// Part of a file.
pub(crate) struct Part {
    path: String,
    bytes: Bytes,
    is_last: bool,
}

/// The way from sinks to [`upload`].
pub(crate) fn parts() -> (Sender<Part>, Receiver<Part>) {
    channel(1)
}

/// Takes the bytes of a file on a thread that may block.
pub(crate) struct Sink {
    path: String,
    part: Vec<u8>,
    sent: u64,
    part_bytes: usize,
    parts: Sender<Part>,
    waited: Duration,
}

impl Sink {
    pub(crate) fn new(path: String, part_bytes: usize, parts: Sender<Part>) -> Sink {
        Sink { path, part: Vec::new(), sent: 0, part_bytes, parts, waited: Duration::ZERO }
    }

    fn send(&mut self, is_last: bool) -> Result<(), IoError> {
        let bytes = Bytes::from(std::mem::take(&mut self.part));
        self.sent += bytes.len() as u64;
        let started = Instant::now();
        let part = Part { path: self.path.clone(), bytes, is_last };
        let sent = self.parts.blocking_send(part);
        self.waited += started.elapsed();
        sent.map_err(|_| IoError::other("the upload has failed"))
    }

    /// Ends the file. Returns how long it waited for the store.
    ///
    /// # Errors
    /// The upload has failed.
    pub(crate) fn end(mut self) -> Result<Duration, IoError> {
        self.send(true)?;
        Ok(self.waited)
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, IoError> {
        // Some stores want parts of equal size.
        let taken = bytes.len().min(self.part_bytes - self.part.len());
        self.part.extend_from_slice(&bytes[..taken]);
        if self.part.len() == self.part_bytes {
            self.send(false)?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> Result<(), IoError> {
        Ok(())
    }
}

impl Out for Sink {
    fn size(&self) -> u64 {
        self.sent + self.part.len() as u64
    }
}

/// Stores the parts of files until all sinks are gone. A file whose last part does not come is not stored.
///
/// # Errors
/// [`TableError::Storage`], [`TableError::Denied`].
pub(crate) async fn upload(store: &dyn ObjectStore, mut parts: Receiver<Part>) -> Result<(), TableError> {
    let mut begun: HashMap<String, Box<dyn MultipartUpload>> = HashMap::new();
    let mut done = Ok(());
    while let Some(part) = parts.recv().await {
        if part.is_last && !begun.contains_key(&part.path) {
            done = write_file(store, &part.path, part.bytes).await;
        } else {
            let path = part.path.clone();
            done = add(store, &mut begun, part)
                .await
                .map_err(|error| TableError::storage(format!("writing {path}"), error));
        }
        if done.is_err() {
            break;
        }
    }
    drop(parts);
    for (path, mut upload) in begun {
        if let Err(error) = upload.abort().await {
            tracing::warn!(path, %error, "upload not aborted; the store's lifecycle rule will do it");
        }
    }
    done
}

/// Adds a part to the upload of its file; the last one completes it.
async fn add(
    store: &dyn ObjectStore,
    begun: &mut HashMap<String, Box<dyn MultipartUpload>>,
    part: Part,
) -> Result<(), StoreError> {
    let Part { path, bytes, is_last } = part;
    if !begun.contains_key(&path) {
        let upload = store.put_multipart(&Path::from(path.as_str())).await?;
        begun.insert(path.clone(), upload);
    }
    let Some(upload) = begun.get_mut(&path) else { return Ok(()) };
    upload.put_part(bytes.into()).await?;
    if is_last {
        upload.complete().await?;
        begun.remove(&path);
    }
    Ok(())
}
