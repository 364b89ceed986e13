//! The object store that tables live on: opened by URL, and read and written so that an outage does no harm.
//!
//! In: a URL with options; paths with bytes. Out: [`Root`], the folder of both tables; files read and written. There are three ways
//! to ask. Work that must be done, a live file or a new one, waits while the store is away. A start and a command that only looks
//! try a few times and report the failure. An answer that can not change by waiting, such as "not found" or "denied", is returned
//! at once. State: the checkpoints under way, which are waited for at the end.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::AmazonS3ConfigKey;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ClientConfigKey, Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedRwLockReadGuard, RwLock};
use url::Url;

use super::error::TableError;
use super::refusal::{Answers, Judged};

/// The folder that holds the tables `raw` and `counts`.
#[derive(Clone, Debug)]
pub struct Root {
    url: Url,
    store: Arc<dyn ObjectStore>,
    answers: Arc<Answers>,
    background: Background,
}

/// Work in the background, which is waited for only at the end; a guard is held while it is under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Background(Arc<RwLock<()>>);

impl Background {
    /// `None` once the end has come: nothing more may begin.
    pub(super) fn begin(&self) -> Option<OwnedRwLockReadGuard<()>> {
        Arc::clone(&self.0).try_read_owned().ok()
    }
}

impl Root {
    /// Opens a local path, `file://`, `s3://`, `gs://`, `az://` or `memory://`. `options` are named as object_store names them.
    ///
    /// # Errors
    /// [`TableError::Invalid`] when the URL or an option is not understood, or a local folder is not there.
    pub fn open(location: &str, options: &BTreeMap<String, String>) -> Result<Root, TableError> {
        Root::at(location, options, false)
    }

    /// Opens it as [`Root::open`] does; a local folder that is not there is made.
    ///
    /// # Errors
    /// [`TableError::Invalid`], also when the folder can not be made.
    pub fn make(location: &str, options: &BTreeMap<String, String>) -> Result<Root, TableError> {
        Root::at(location, options, true)
    }

    fn at(location: &str, options: &BTreeMap<String, String>, make: bool) -> Result<Root, TableError> {
        let invalid = |why: String| TableError::Invalid(format!("tables.url = {location:?}: {why}"));
        let url = match Url::parse(location) {
            // A single letter is a drive, not a scheme.
            Ok(url) if url.scheme().len() > 1 => url,
            _ => {
                let path = std::path::absolute(location).map_err(|error| invalid(error.to_string()))?;
                Url::from_directory_path(path)
                    .map_err(|()| invalid("this path can not be written as a URL".to_owned()))?
            }
        };
        if url.scheme() == "file" {
            let path = url.to_file_path().map_err(|()| invalid("expected file:///an/absolute/path".to_owned()))?;
            if make {
                std::fs::create_dir_all(&path).map_err(|error| {
                    invalid(format!("the folder can not be created: {error}; check the path and its permissions"))
                })?;
            } else if !path.is_dir() {
                return Err(invalid(
                    "there is no such folder: run the job first (floodmark run JOB), or name the folder that holds its tables".to_owned(),
                ));
            }
            let store = LocalFileSystem::new_with_prefix(&path).map_err(|error| invalid(error.to_string()))?;
            // Otherwise empty folders of past periods would pile up.
            let store = store.with_automatic_cleanup(true);
            return Ok(Root::judged(url, Arc::new(store)));
        }
        if url.scheme() == "memory" {
            return Ok(Root::judged(url, Arc::new(InMemory::new())));
        }
        if matches!(url.scheme(), "s3" | "s3a") {
            check_endpoint(options).map_err(invalid)?;
        }
        let mut options = options.clone();
        if url.scheme() == "s3" {
            // A commit is a conditional create; for S3, object_store must be told how to make it.
            options.entry("conditional_put".to_owned()).or_insert_with(|| "etag".to_owned());
        }
        let (store, prefix) =
            object_store::parse_url_opts(&url, &options).map_err(|error| invalid(error.to_string()))?;
        Ok(Root::judged(url, Arc::new(PrefixStore::new(store, prefix))))
    }

    fn judged(url: Url, store: Arc<dyn ObjectStore>) -> Root {
        let answers = Arc::<Answers>::default();
        let store = Arc::new(Judged::new(store, url.as_str(), Arc::clone(&answers)));
        Root { url, store, answers, background: Background::default() }
    }

    /// A root on an existing store, for tests.
    pub fn on(store: Arc<dyn ObjectStore>) -> Root {
        Root::judged(Url::parse("memory:///").expect("a constant URL"), store)
    }

    /// The same folder, seen through a store around its own; for measurements.
    #[must_use]
    pub fn around(self, wrap: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>) -> Root {
        Root { store: wrap(Arc::clone(&self.store)), ..self }
    }

    /// The URL.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The store of the whole folder.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The last complaint of the store's client in this process; `None` if the last answers were good.
    pub fn last_complaint(&self) -> Option<String> {
        self.answers.last_complaint()
    }

    pub(super) fn answers(&self) -> Arc<Answers> {
        Arc::clone(&self.answers)
    }

    /// Waits until the checkpoints under way are written, but at most `within`: they only make opening faster.
    pub async fn finish(&self, within: Duration) {
        if tokio::time::timeout(within, self.background.0.write()).await.is_err() {
            tracing::info!("ending without waiting for a checkpoint");
        }
    }

    pub(super) fn background(&self) -> Background {
        self.background.clone()
    }

    /// The store of one table, and the table's URL.
    pub fn table(&self, name: &str) -> (Arc<dyn ObjectStore>, Url) {
        let mut url = self.url.clone();
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        url.set_path(&format!("{}{name}/", url.path()));
        (Arc::new(PrefixStore::new(Arc::clone(&self.store), name)), url)
    }
}

/// Checks that the options name an endpoint at which a server can be.
fn check_endpoint(options: &BTreeMap<String, String>) -> Result<(), String> {
    let option = |wanted: AmazonS3ConfigKey| {
        let is_it = |name: &str| name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>().is_ok_and(|key| key == wanted);
        options.iter().find(|(name, _)| is_it(name)).map(|(_, value)| value.as_str())
    };
    let Some(endpoint) = option(AmazonS3ConfigKey::Endpoint) else { return Ok(()) };
    let allows_http = option(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp));
    match Url::parse(endpoint) {
        Ok(url) if url.scheme() == "https" => Ok(()),
        Ok(url) if url.scheme() == "http" && allows_http.is_some_and(|allows| allows.eq_ignore_ascii_case("true")) => {
            Ok(())
        }
        Ok(url) if url.scheme() == "http" => Err(format!(
            "the endpoint {endpoint} does not use TLS: set allow_http = true in [tables.options] (AWS_ALLOW_HTTP=true \
             in the environment), or give an https:// endpoint"
        )),
        found => Err(format!(
            "the endpoint {endpoint:?} is not the URL of a server{}: expected https://host:port, or http://host:port \
             with allow_http = true",
            found.err().map(|error| format!(" ({error})")).unwrap_or_default()
        )),
    }
}

/// Whether trying again may help: true for any error that is not a final refusal.
pub(crate) fn may_pass(error: &StoreError) -> bool {
    !matches!(
        error,
        StoreError::NotFound { .. }
            | StoreError::InvalidPath { .. }
            | StoreError::NotSupported { .. }
            | StoreError::NotImplemented { .. }
            | StoreError::UnknownConfigurationKey { .. }
            | StoreError::PermissionDenied { .. }
            | StoreError::Unauthenticated { .. }
    )
}

/// Pauses between tries, growing to five seconds.
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Backoff { next: Duration::from_millis(50) }
    }

    pub(crate) async fn pause(&mut self) {
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(Duration::from_secs(5));
    }
}

/// How often a read is tried if its failure should be reported soon: at a start, and in commands that only look at tables.
const TRIES: u32 = 6;

/// Reads with a few tries. An answer that breaks off is overcome within a second or two; if the store is away, that is reported.
///
/// # Errors
/// The store's last answer.
pub(crate) async fn try_read<T, F>(mut read: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut backoff = Backoff::new();
    for _ in 1..TRIES {
        match read().await {
            Err(error) if may_pass(&error) => {
                tracing::debug!(%error, "not read, trying again");
                backoff.pause().await;
            }
            done => return done,
        }
    }
    read().await
}

/// Reads a whole file with a few tries.
///
/// # Errors
/// The store's last answer.
pub async fn look_at_file(store: &dyn ObjectStore, path: &Path) -> Result<Bytes, StoreError> {
    try_read(|| async { store.get(path).await?.bytes().await }).await
}

/// Reads a live file, which therefore exists. Waits while the store is away.
///
/// # Errors
/// The store's answer, when it is a final refusal.
pub async fn read_file(store: &dyn ObjectStore, path: &Path) -> Result<Bytes, StoreError> {
    read_patiently(path, || async { store.get(path).await?.bytes().await }).await
}

/// Reads a range of a live file, as [`read_file`] does.
///
/// # Errors
/// As [`read_file`].
pub(crate) async fn read_range(store: &dyn ObjectStore, path: &Path, range: Range<u64>) -> Result<Bytes, StoreError> {
    read_patiently(path, || store.get_range(path, range.clone())).await
}

/// The size of a live file in bytes, as [`read_file`] reads it.
///
/// # Errors
/// As [`read_file`].
pub(crate) async fn file_size(store: &dyn ObjectStore, path: &Path) -> Result<u64, StoreError> {
    read_patiently(path, || async { Ok(store.head(path).await?.size) }).await
}

async fn read_patiently<T, F>(path: &Path, mut read: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut backoff = Backoff::new();
    loop {
        match read().await {
            Err(error) if may_pass(&error) => {
                tracing::warn!(%path, %error, "file not read, trying again; check the store");
                backoff.pause().await;
            }
            done => return done,
        }
    }
}

/// Writes a file under a name that nobody else uses. It is tried until the store accepts it, so the epoch waits while the store is
/// away.
///
/// # Errors
/// [`TableError::Storage`] when the store says no for good.
pub async fn write_file(store: &dyn ObjectStore, path: &str, bytes: Bytes) -> Result<(), TableError> {
    let location = Path::from(path);
    let mut backoff = Backoff::new();
    loop {
        match store.put(&location, bytes.clone().into()).await {
            Ok(_) => return Ok(()),
            Err(error) if may_pass(&error) => {
                tracing::warn!(path, %error, "file not written, trying again; check the store");
                backoff.pause().await;
            }
            Err(error) => return Err(TableError::storage(format!("writing {path}"), error)),
        }
    }
}

/// Creates a file and returns `true`; or `false` if there is one already, which may be ours. Waits while the store is away.
///
/// # Errors
/// [`TableError::Storage`] when the store says no for good.
pub async fn create_file(store: &dyn ObjectStore, path: &str, bytes: Bytes) -> Result<bool, TableError> {
    let location = Path::from(path);
    let mut backoff = Backoff::new();
    loop {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match store.put_opts(&location, bytes.clone().into(), options).await {
            Ok(_) => return Ok(true),
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => return Ok(false),
            Err(error) if may_pass(&error) => {
                tracing::warn!(path, %error, "file not written, trying again; check the store");
                backoff.pause().await;
            }
            Err(error) => return Err(TableError::storage(format!("writing {path}"), error)),
        }
    }
}

/// Reads a JSON file beside the tables; `None` where it is not there.
///
/// # Errors
/// [`TableError::Storage`]; [`TableError::Corrupt`] when its content is not as expected.
pub(crate) async fn load_json<T: DeserializeOwned>(root: &Root, path: &str) -> Result<Option<T>, TableError> {
    let bytes = match look_at_file(root.store().as_ref(), &Path::from(path)).await {
        Ok(bytes) => bytes,
        Err(StoreError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(TableError::storage(format!("reading {path}"), error)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| TableError::Corrupt { table: "counts".to_owned(), what: format!("{path}: {error}") })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A wait for the store is bounded by its client's timeout for one answer: 30 s if the job does not set another.
    #[tokio::test]
    async fn a_store_that_never_answers_is_asked_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let options = [
            ("endpoint", format!("http://{}", listener.local_addr().expect("bound"))),
            ("allow_http", "true".to_owned()),
            ("access_key_id", "a".to_owned()),
            ("secret_access_key", "b".to_owned()),
            ("region", "us-east-1".to_owned()),
            ("timeout", "300ms".to_owned()),
        ];
        let options = options.map(|(name, value)| (name.to_owned(), value)).into();
        let root = Root::open("s3://bucket/tables", &options).expect("an S3 store");
        let server = async {
            let (_silent, _) = listener.accept().await.expect("asked");
            let (mut other, _) = listener.accept().await.expect("asked again");
            let read = other.read(&mut [0; 4096]).await.expect("a request");
            assert!(read > 0);
            let answer = b"HTTP/1.1 200 OK\r\netag: \"1\"\r\ncontent-length: 0\r\n\r\n";
            other.write_all(answer).await.expect("answered");
            other
        };
        let write = write_file(root.store().as_ref(), "a", Bytes::from_static(b"a"));
        let both = tokio::time::timeout(Duration::from_secs(30), async { tokio::join!(write, server) }).await;
        both.expect("it does not hang").0.expect("written");
    }
}
