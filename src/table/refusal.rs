//! What a store's refusals mean, by one rule for all commands, and the store that applies it.
//!
//! In: the answers of a [`Root`](super::Root)'s store. Out: the same, except that a refusal becomes a [`Refusal`], which is not
//! retried within the process. State: which kinds of requests have succeeded, and the last complaint of each kind.
//!
//! - If the store has never accepted such a request in this process, the user must correct something: keys, bucket, region or
//!   rights. That is [`Exit::Configuration`](crate::process::Exit::Configuration), so that no supervisor starts again forever with
//!   a wrong password.
//! - If it has accepted such requests before, something was changed meanwhile; and expired credentials are replaced by a new start.
//!   Both are [`Exit::TryAgain`](crate::process::Exit::TryAgain). If the new start is refused, the first rule applies to it.
//!
//! Rights differ by the kind of request (a key may be allowed to read and not to write), so the success of one kind says nothing
//! about another. Any success shows that the key and the bucket exist.

use std::error::Error;
use std::fmt::{Display, Formatter};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error as StoreError, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};

use crate::process::lock;

/// Codes that say that credentials were valid and no longer are, or that a request came late.
const EXPIRED: [&str; 5] =
    ["ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired", "RequestTimeTooSkewed"];

/// Codes that say that the keys are wrong.
const KEYS: [&str; 6] = [
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "AuthenticationFailed",
    "NotSignedUp",
    "InvalidSecurity",
];

/// Codes that say that the bucket is wrong.
const BUCKET: [&str; 4] = ["NoSuchBucket", "InvalidBucketName", "ContainerNotFound", "AllAccessDisabled"];

/// Codes that say that the region or the endpoint is wrong.
const ENDPOINT: [&str; 3] = ["AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"];

/// Texts that mean the same if there is no code: a redirect, a certificate of another server, TLS to a server without it, or plain
/// HTTP to a server with it.
const ENDPOINT_TEXTS: [&str; 5] = [
    "redirect without LOCATION",
    "status code: 301",
    "invalid peer certificate",
    "InvalidContentType",
    "HTTP request to an HTTPS server",
];

/// The address at which machines in a cloud ask for the credentials of their role.
const INSTANCE_METADATA: &str = "169.254.169.254";

/// How many characters of a server's message are passed on.
const SAID_MAX: usize = 400;

/// Kinds of requests, each with rights of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    List,
    Write,
    Delete,
}

/// What a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// The credentials have expired.
    Expired,
    Keys,
    Bucket,
    Endpoint,
    /// These keys may not do this there.
    Rights,
    /// This user may not do this in a folder of this machine.
    Folder,
}

/// Why the store refused; `None` for errors that may pass by themselves, and for answers that are not refusals.
fn cause(error: &StoreError) -> Option<Cause> {
    let io_kind = causes(error).find_map(|cause| cause.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
    if let Some(std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem) = io_kind {
        return Some(Cause::Folder);
    }
    let text = text(error);
    if let Some(code) = code(&text) {
        let lists = [
            (&EXPIRED[..], Cause::Expired),
            (&KEYS[..], Cause::Keys),
            (&BUCKET[..], Cause::Bucket),
            (&ENDPOINT[..], Cause::Endpoint),
        ];
        if let Some((_, cause)) = lists.into_iter().find(|(codes, _)| codes.contains(&code)) {
            return Some(cause);
        }
    }
    if ENDPOINT_TEXTS.iter().any(|part| text.contains(part)) {
        return Some(Cause::Endpoint);
    }
    let forbids = ["status code: 401", "status code: 403", "(code: AccessDenied)"];
    let denied = matches!(error, StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. });
    (denied || forbids.iter().any(|part| text.contains(part))).then_some(Cause::Rights)
}

/// An error and its chain of causes.
fn causes(error: &StoreError) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(Some(error as &(dyn Error + 'static)), |&error| error.source())
}

/// An error with its causes, as one text; a cause that the text already contains is not repeated.
fn text(error: &StoreError) -> String {
    causes(error).fold(String::new(), |text, cause| match cause.to_string() {
        cause if text.is_empty() => cause,
        cause if text.contains(&cause) => text,
        cause => format!("{text}: {cause}"),
    })
}

/// The code in a server's answer.
fn code(text: &str) -> Option<&str> {
    between(text, "<Code>", "</Code>").or_else(|| between(text, "(code: ", ")"))
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    Some(text.split_once(from)?.1.split_once(to)?.0)
}

/// A store's error as people read it: the last complaint of its client, with the server's code and message in place of its XML.
pub(super) fn said(error: &StoreError) -> String {
    if let StoreError::PermissionDenied { source, .. } = error
        && let Some(refusal) = source.downcast_ref::<Refusal>()
    {
        return refusal.to_string();
    }
    let text = text(error);
    let mut said = match (text.find("<?xml").or_else(|| text.find("<Error>")), code(&text)) {
        (Some(xml), Some(code)) => {
            let message = between(&text, "<Message>", "</Message>").unwrap_or_default();
            let rest = text[xml..].split_once("</Error>").map_or("", |(_, rest)| rest);
            format!("{}{code}: {message}{rest}", text[..xml].trim_start())
        }
        _ => text.clone(),
    };
    said = shortened(said.replace(['\r', '\n'], " "));
    if text.contains(INSTANCE_METADATA) {
        said += " (no access_key_id is given, so the store's client asked for the credentials of this machine's role)";
    }
    said
}

fn shortened(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(SAID_MAX) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Whether the user must correct something; else the error may pass.
pub(super) fn is_for_the_user(error: &StoreError) -> bool {
    match error {
        StoreError::PermissionDenied { source, .. } => {
            source.downcast_ref::<Refusal>().is_none_or(|refusal| !refusal.passes())
        }
        StoreError::Unauthenticated { .. } => true,
        _ => false,
    }
}

/// A store's refusal, and what to do about it.
#[derive(Debug)]
struct Refusal {
    /// The tables' URL.
    url: String,
    /// What the server said.
    said: String,
    cause: Cause,
    kind: Kind,
    /// Whether the store has accepted such requests before.
    was_taken: bool,
}

impl Refusal {
    /// Whether a new start may succeed.
    fn passes(&self) -> bool {
        self.cause == Cause::Expired || self.was_taken
    }
}

impl Error for Refusal {}

impl Display for Refusal {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Refusal { url, said, cause, kind, was_taken } = self;
        let doing = match kind {
            Kind::Read => "read",
            Kind::List => "list",
            Kind::Write => "write",
            Kind::Delete => "delete",
        };
        let [keys, place] = match url.split_once("://").map(|(scheme, _)| scheme) {
            Some("gs") => [
                "service_account or service_account_key; without a job file, in the environment: \
                 GOOGLE_SERVICE_ACCOUNT",
                "the bucket's name",
            ],
            Some("az" | "abfs" | "abfss") => [
                "account_name and account_key; without a job file, in the environment: AZURE_STORAGE_ACCOUNT_NAME, \
                 AZURE_STORAGE_ACCOUNT_KEY",
                "account_name; without a job file, in the environment: AZURE_STORAGE_ACCOUNT_NAME",
            ],
            _ => [
                "access_key_id, secret_access_key and, for temporary keys, session_token; without a job file, in the \
                 environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN",
                "region, endpoint and allow_http; without a job file, in the environment: AWS_REGION, AWS_ENDPOINT_URL, \
                 AWS_ALLOW_HTTP",
            ],
        };
        let options = "in the job file's [tables.options]:";
        write!(f, "{url}: ")?;
        match cause {
            Cause::Folder => {
                write!(
                    f,
                    "{said}; give the user that runs this the right to {doing} there, or choose another tables.url"
                )
            }
            Cause::Expired => write!(
                f,
                "the store says the credentials have expired ({said}): start again with new ones, {options} {keys}"
            ),
            _ if *was_taken => write!(
                f,
                "the store no longer accepts our requests ({said}), as it did before: keys or rights were changed \
                 meanwhile; start again with keys that are valid now"
            ),
            Cause::Keys => write!(f, "the store refuses the keys ({said}); correct them, {options} {keys}"),
            Cause::Bucket => write!(f, "there is no such bucket ({said}); correct tables.url, or create the bucket"),
            Cause::Endpoint => {
                write!(
                    f,
                    "the bucket is not at this endpoint or in this region, or the endpoint expects another \
                    protocol ({said}); correct, {options} {place}"
                )
            }
            Cause::Rights => write!(
                f,
                "the store does not let these keys {doing} there ({said}); grant them this right, or use other keys, \
                 {options} {keys}"
            ),
        }
    }
}

/// What a store has answered in this process.
#[derive(Debug, Default)]
pub(super) struct Answers([Answered; 4]);

#[derive(Debug, Default)]
struct Answered {
    well: AtomicBool,
    complaint: Mutex<Option<String>>,
}

impl Answers {
    fn well(&self, kind: Kind) {
        let answered = &self.0[kind as usize];
        answered.well.store(true, Ordering::Relaxed);
        lock(&answered.complaint).take();
    }

    fn was_well(&self, kind: Kind) -> bool {
        self.0[kind as usize].well.load(Ordering::Relaxed)
    }

    fn complaint(&self, kind: Kind, said: String) {
        *lock(&self.0[kind as usize].complaint) = Some(said);
    }

    /// The last complaint of the store's client; `None` if the last answers were good.
    pub(super) fn last_complaint(&self) -> Option<String> {
        self.0.iter().find_map(|answered| lock(&answered.complaint).clone())
    }
}

/// A store whose refusals are judged by the rule.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    inner: Arc<dyn ObjectStore>,
    url: Arc<str>,
    answers: Arc<Answers>,
}

impl Judged {
    pub(super) fn new(inner: Arc<dyn ObjectStore>, url: &str, answers: Arc<Answers>) -> Judged {
        Judged { inner, url: url.into(), answers }
    }

    fn judge<T>(&self, kind: Kind, path: &str, answer: Result<T>) -> Result<T> {
        let error = match answer {
            Ok(answer) => {
                self.answers.well(kind);
                return Ok(answer);
            }
            Err(error) => error,
        };
        let Some(cause) = cause(&error) else {
            match error {
                StoreError::NotFound { .. }
                | StoreError::AlreadyExists { .. }
                | StoreError::Precondition { .. }
                | StoreError::NotModified { .. } => self.answers.well(kind),
                _ => self.answers.complaint(kind, said(&error)),
            }
            return Err(error);
        };
        let any =
            || [Kind::Read, Kind::List, Kind::Write, Kind::Delete].iter().any(|kind| self.answers.was_well(*kind));
        let was_taken = match cause {
            Cause::Rights | Cause::Folder => self.answers.was_well(kind),
            _ => any(),
        };
        let refusal = Refusal { url: self.url.to_string(), said: of_server(&error), cause, kind, was_taken };
        self.answers.complaint(kind, refusal.to_string());
        Err(StoreError::PermissionDenied { path: path.to_owned(), source: Box::new(refusal) })
    }
}

/// The server's message, without the description of the request; the whole text if the two can not be separated.
fn of_server(error: &StoreError) -> String {
    let said = said(error);
    match said.split_once("status code: ") {
        Some((_, answer)) => answer.trim_end_matches([':', ' ']).to_owned(),
        None => said,
    }
}

impl Display for Judged {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Judged {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.judge(Kind::Write, path.as_ref(), self.inner.put_opts(path, payload, options).await)
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.inner.put_multipart_opts(path, options).await;
        let upload = self.judge(Kind::Write, path.as_ref(), upload)?;
        Ok(Box::new(Upload { store: self.clone(), path: path.clone(), upload }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.judge(Kind::Read, path.as_ref(), self.inner.get_opts(path, options).await)
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.judge(Kind::Read, path.as_ref(), self.inner.get_ranges(path, ranges).await)
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        self.inner.delete_stream(paths).map(move |answer| store.judge(Kind::Delete, "", answer)).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        self.inner.list(prefix).map(move |answer| store.judge(Kind::List, "", answer)).boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        self.inner.list_with_offset(prefix, offset).map(move |answer| store.judge(Kind::List, "", answer)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.judge(Kind::List, "", self.inner.list_with_delimiter(prefix).await)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.judge(Kind::Write, to.as_ref(), self.inner.copy_opts(from, to, options).await)
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.judge(Kind::Write, to.as_ref(), self.inner.rename_opts(from, to, options).await)
    }
}

/// An upload in parts.
#[derive(Debug)]
struct Upload {
    store: Judged,
    path: Path,
    upload: Box<dyn MultipartUpload>,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (store, path) = (self.store.clone(), self.path.clone());
        self.upload.put_part(data).map(move |answer| store.judge(Kind::Write, path.as_ref(), answer)).boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let answer = self.upload.complete().await;
        self.store.judge(Kind::Write, self.path.as_ref(), answer)
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}

#[cfg(test)]
mod tests;
