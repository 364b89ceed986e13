//! What Floodmark needs from a store, tested on every store that needs no server; `e2e_storage.rs` tests S3.

use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::prefix::PrefixStore;

use crate::support::contract::suite;
use crate::support::faulty::Faulty;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory() {
    suite(Arc::new(InMemory::new())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_disk() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    suite(Arc::new(LocalFileSystem::new_with_prefix(folder.path()).expect("a store on it"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_a_prefix() {
    suite(Arc::new(PrefixStore::new(InMemory::new(), "tables/shop"))).await;
}

/// Other tests rely on this: without faults, the faulty store changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faulty_store_without_faults() {
    suite(Arc::new(Faulty::new(Arc::new(InMemory::new())))).await;
}
