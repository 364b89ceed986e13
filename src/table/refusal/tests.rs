//! Tests of what errors of a store mean, and of how they are reported.

use std::collections::VecDeque;

use object_store::ObjectStoreExt;
use object_store::memory::InMemory;

use super::*;
use crate::process::{Exit, HasExit};
use crate::table::TableError;

/// An answer as the client of an S3 server reports it.
fn of_server(status: &str, code: &str) -> StoreError {
    let text = format!(
        "Error performing GET http://h/b/x in 1ms - Server returned non-2xx status code: {status}: <?xml version=\"1.0\"?>\n\
         <Error><Code>{code}</Code><Message>No, {code}.</Message><AWSAccessKeyId>AKIA1</AWSAccessKeyId></Error>"
    );
    match &status[..3] {
        "403" => StoreError::PermissionDenied { path: "x".to_owned(), source: text.into() },
        "401" => StoreError::Unauthenticated { path: "x".to_owned(), source: text.into() },
        "404" => StoreError::NotFound { path: "x".to_owned(), source: text.into() },
        _ => StoreError::Generic { store: "S3", source: text.into() },
    }
}

fn generic(source: impl Into<Box<dyn Error + Send + Sync>>) -> StoreError {
    StoreError::Generic { store: "S3", source: source.into() }
}

/// A store that first answers with these errors.
#[derive(Debug)]
struct Says(Mutex<VecDeque<StoreError>>, InMemory);

impl Says {
    fn next(&self) -> Result<()> {
        lock(&self.0).pop_front().map_or(Ok(()), Err)
    }
}

impl Display for Says {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("says")
    }
}

#[async_trait]
impl ObjectStore for Says {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.next()?;
        self.1.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.1.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.next()?;
        self.1.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.1.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.next() {
            Ok(()) => self.1.list(prefix),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.1.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.1.copy_opts(from, to, options).await
    }
}

fn judged(says: impl IntoIterator<Item = StoreError>) -> Judged {
    let says = Says(Mutex::new(says.into_iter().collect()), InMemory::new());
    Judged::new(Arc::new(says), "s3://bucket/tables", Arc::default())
}

async fn write(store: &Judged) -> Option<TableError> {
    let answer = store.put(&Path::from("x"), "x".into()).await;
    answer.err().map(|error| TableError::storage("writing x", error))
}

async fn read(store: &Judged) -> Option<TableError> {
    store.get(&Path::from("x")).await.err().map(|error| TableError::storage("reading x", error))
}

#[tokio::test]
async fn at_the_start_a_refusal_is_for_the_user_and_the_rest_may_pass() {
    let folder = |kind: std::io::ErrorKind| generic(std::io::Error::from(kind));
    let cases = [
        (
            of_server("403 Forbidden", "InvalidAccessKeyId"),
            Exit::Configuration,
            "refuses the keys (403 Forbidden: InvalidAcc",
        ),
        (of_server("403 Forbidden", "SignatureDoesNotMatch"), Exit::Configuration, "secret_access_key"),
        (of_server("400 Bad Request", "InvalidToken"), Exit::Configuration, "AWS_SESSION_TOKEN"),
        (of_server("401 Unauthorized", "Whatever"), Exit::Configuration, "does not let these keys write there"),
        (of_server("403 Forbidden", "AccessDenied"), Exit::Configuration, "does not let these keys write there"),
        (
            generic("failed for key x: no (code: AccessDenied)"),
            Exit::Configuration,
            "does not let these keys write there",
        ),
        (
            of_server("404 Not Found", "NoSuchBucket"),
            Exit::Configuration,
            "there is no such bucket (404 Not Found: NoSuchB",
        ),
        (of_server("400 Bad Request", "AuthorizationHeaderMalformed"), Exit::Configuration, "AWS_REGION"),
        (generic("Received redirect without LOCATION"), Exit::Configuration, "the bucket is not at this endpoint"),
        (generic("invalid peer certificate: UnknownIssuer"), Exit::Configuration, "UnknownIssuer"),
        (
            folder(std::io::ErrorKind::PermissionDenied),
            Exit::Configuration,
            "give the user that runs this the right to write there",
        ),
        (folder(std::io::ErrorKind::ReadOnlyFilesystem), Exit::Configuration, "choose another tables.url"),
        (folder(std::io::ErrorKind::StorageFull), Exit::TryAgain, "no storage space"),
        (
            of_server("503 Service Unavailable", "SlowDown"),
            Exit::TryAgain,
            "503 Service Unavailable: SlowDown: No, SlowDown.",
        ),
        (generic("connection refused"), Exit::TryAgain, "connection refused"),
        (generic("GET http://169.254.169.254/x: timed out"), Exit::TryAgain, "no access_key_id is given"),
    ];
    for (error, exit, says) in cases {
        let shown = error.to_string();
        let error = write(&judged([error])).await.expect("refused");
        let text = error.to_string();
        assert_eq!(error.exit(), exit, "{shown}: {text}");
        assert!(text.starts_with("writing x: ") && text.contains(says), "{text}");
        assert!(!text.contains('<') && !text.contains("AKIA1"), "no page of XML, no key: {text}");
    }
}

#[tokio::test]
async fn what_was_taken_before_may_be_taken_again() {
    for error in [
        of_server("403 Forbidden", "AccessDenied"),
        of_server("403 Forbidden", "InvalidAccessKeyId"),
        of_server("404 Not Found", "NoSuchBucket"),
    ] {
        let store = judged([]);
        assert!(write(&store).await.is_none());
        let Judged { answers, .. } = &store;
        let again = Judged::new(judged([error]).inner, "s3://bucket/tables", Arc::clone(answers));
        let error = write(&again).await.expect("refused");
        assert_eq!(error.exit(), Exit::TryAgain, "{error}");
        assert!(error.to_string().contains("keys or rights were changed meanwhile; start again"), "{error}");
    }
}

/// Otherwise a job whose keys may read and not write would be started again forever.
#[tokio::test]
async fn rights_are_of_one_kind_of_request_and_keys_of_all() {
    let denied = || of_server("403 Forbidden", "AccessDenied");
    let unknown = || of_server("403 Forbidden", "InvalidAccessKeyId");
    for (error, exit) in [(denied(), Exit::Configuration), (unknown(), Exit::TryAgain)] {
        let store = judged([of_server("404 Not Found", "NoSuchKey"), error]);
        assert!(matches!(read(&store).await, Some(TableError::Storage { error: StoreError::NotFound { .. }, .. })));
        let error = write(&store).await.expect("refused");
        assert_eq!(error.exit(), exit, "{error}");
    }
}

#[tokio::test]
async fn expired_credentials_may_pass_always() {
    for code in EXPIRED {
        for status in ["400 Bad Request", "403 Forbidden"] {
            let store = judged([of_server(status, code), of_server(status, code)]);
            for error in [write(&store).await, read(&store).await] {
                let error = error.expect("refused");
                assert_eq!(error.exit(), Exit::TryAgain, "{error}");
                assert!(
                    error.to_string().contains("the credentials have expired") && error.to_string().contains(code),
                    "{error}"
                );
            }
        }
    }
}

#[tokio::test]
async fn the_last_complaint_is_kept_until_such_a_request_is_taken() {
    let store = judged([generic("first"), generic("connection refused")]);
    assert_eq!(store.answers.last_complaint(), None);
    assert!(write(&store).await.is_some() && write(&store).await.is_some());
    assert_eq!(store.answers.last_complaint().as_deref(), Some("Generic S3 error: connection refused"));
    assert!(write(&store).await.is_none());
    assert_eq!(store.answers.last_complaint(), None);
}

#[test]
fn a_cause_that_its_error_does_not_say_is_said() {
    #[derive(Debug, thiserror::Error)]
    #[error("error sending request")]
    struct Sending(#[source] std::io::Error);
    let error = generic(Sending(std::io::Error::other("connection refused")));
    assert_eq!(said(&error), "Generic S3 error: error sending request: connection refused");
}
