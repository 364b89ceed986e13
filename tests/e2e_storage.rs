//! What Floodmark needs from a store, tested on a real S3 server that is opened as a job opens it; and what it reports when the server
//! refuses.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use floodmark::table::Root;

mod storage {
    mod refusals;
}
mod support;

/// A server for this test only. It is stopped when the test ends, even if it fails.
struct S3 {
    folder: PathBuf,
    env: BTreeMap<String, String>,
    _scratch: Option<tempfile::TempDir>,
}

impl S3 {
    fn start(name: &str) -> S3 {
        let (folder, scratch) = match std::env::var_os("FLOODMARK_TEST_DIR") {
            Some(given) => (PathBuf::from(given).join(name), None),
            None => {
                let scratch = tempfile::tempdir().expect("a temporary folder");
                (scratch.path().join(name), Some(scratch))
            }
        };
        let mut server = S3 { folder, env: BTreeMap::new(), _scratch: scratch };
        assert!(server.script("start"), "scripts/s3 start failed; see above");
        let env = std::fs::read_to_string(server.folder.join("env")).expect("the server says where it is");
        server.env = env
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        server
    }

    fn script(&self, command: &str) -> bool {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/s3");
        let status = Command::new(script).arg(command).arg("--dir").arg(&self.folder).status();
        status.is_ok_and(|status| status.success())
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        if !self.script("stop") {
            eprintln!("scripts/s3 stop --dir {} failed", self.folder.display());
        }
    }
}

#[test]
#[ignore = "e2e: starts a real S3 server"]
fn s3() {
    let server = S3::start("storage-contract");
    let options = [
        ("endpoint", "S3_ENDPOINT"),
        ("access_key_id", "AWS_ACCESS_KEY_ID"),
        ("secret_access_key", "AWS_SECRET_ACCESS_KEY"),
        ("region", "AWS_REGION"),
    ]
    .map(|(option, name)| (option.to_owned(), server.env[name].clone()));
    let mut options = BTreeMap::from(options);
    options.insert("allow_http".to_owned(), "true".to_owned());
    let url = format!("s3://{}/contract", server.env["S3_BUCKET"]);
    let root = Root::open(&url, &options).expect("a root on the server");
    let (store, _) = root.table("suite");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(support::contract::suite(store));
}
