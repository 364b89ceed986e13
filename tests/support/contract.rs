//! What Floodmark needs from a store: the guarantees on which the exactness of the tables depends, and nothing more.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join_all;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions};

/// The number of concurrent tries to create the same key.
const RIVALS: usize = 24;

/// The size of a large commit, which is written with one put and not in parts.
const LARGE_BYTES: usize = 24 << 20;

/// Runs the whole suite in an empty folder of `store`.
pub(crate) async fn suite(store: Arc<dyn ObjectStore>) {
    let below = |name: &str| Arc::new(PrefixStore::new(Arc::clone(&store), name)) as Arc<dyn ObjectStore>;
    one_of_many_creates_wins(below("one-winner")).await;
    create_leaves_what_is_there(below("create")).await;
    what_was_written_is_read(below("read")).await;
    a_missing_key_is_not_found(below("missing")).await;
    a_log_is_listed_from_an_offset(below("listing")).await;
    a_prefix_hides_what_is_beside_it(below("prefix")).await;
    a_large_file_is_whole(below("large")).await;
    names_of_partitions_and_commits_are_kept(below("names")).await;
}

fn create() -> PutOptions {
    PutOptions { mode: PutMode::Create, ..PutOptions::default() }
}

async fn bytes_of(store: &Arc<dyn ObjectStore>, path: &Path) -> Bytes {
    store.get(path).await.expect("the key is there").bytes().await.expect("its bytes")
}

/// This alone protects a commit: exactly one create succeeds, all others get `AlreadyExists`, and afterwards the winner's bytes are there.
async fn one_of_many_creates_wins(store: Arc<dyn ObjectStore>) {
    for round in 0..8 {
        let path = Path::from(format!("_delta_log/{round:020}.json"));
        let tries = (0..RIVALS).map(|number| {
            let (store, path) = (Arc::clone(&store), path.clone());
            tokio::spawn(async move {
                let bytes = Bytes::from(format!("{number:>0$}", 100 * (number + 1)));
                match store.put_opts(&path, bytes.clone().into(), create()).await {
                    Ok(_) => Some(bytes),
                    Err(Error::AlreadyExists { .. }) => {
                        let seen = bytes_of(&store, &path).await;
                        assert_ne!(seen, bytes, "a loser finds its own bytes");
                        assert!(!seen.is_empty(), "a loser finds a file that is not written to its end");
                        None
                    }
                    Err(error) => panic!("a loser must see AlreadyExists, not {error:?}"),
                }
            })
        });
        let won: Vec<Bytes> =
            join_all(tries).await.into_iter().filter_map(|result| result.expect("no panic")).collect();
        assert_eq!(won.len(), 1, "winners of round {round}");
        assert_eq!(bytes_of(&store, &path).await, won[0], "what stands there is the winner's");
    }
}

async fn create_leaves_what_is_there(store: Arc<dyn ObjectStore>) {
    let path = Path::from("key");
    store.put_opts(&path, "first".into(), create()).await.expect("created");
    let second = store.put_opts(&path, "second".into(), create()).await;
    assert!(matches!(second, Err(Error::AlreadyExists { .. })), "{second:?}");
    assert_eq!(bytes_of(&store, &path).await, "first");
    // The same bytes again are no exception: this is how a lost reply is recognised.
    let again = store.put_opts(&path, "first".into(), create()).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
}

async fn what_was_written_is_read(store: Arc<dyn ObjectStore>) {
    let path = Path::from("file");
    for content in ["one", "two, longer", "3"] {
        store.put(&path, content.into()).await.expect("written");
        assert_eq!(bytes_of(&store, &path).await, content);
        assert_eq!(store.head(&path).await.expect("there").size, content.len() as u64);
        let listed: Vec<_> = store.list(None).try_collect().await.expect("listed");
        assert_eq!(listed.len(), 1);
    }
    assert_eq!(store.get_range(&path, 0..1).await.expect("a range"), "3");
    store.delete(&path).await.expect("deleted");
    assert!(matches!(store.get(&path).await, Err(Error::NotFound { .. })));
    let listed: Vec<_> = store.list(None).try_collect().await.expect("listed");
    assert!(listed.is_empty(), "{listed:?}");
}

async fn a_missing_key_is_not_found(store: Arc<dyn ObjectStore>) {
    for path in ["_delta_log/_last_checkpoint", "a/b/c"] {
        let found = store.get(&Path::from(path)).await;
        assert!(matches!(found, Err(Error::NotFound { .. })), "{found:?}");
        assert!(matches!(store.head(&Path::from(path)).await, Err(Error::NotFound { .. })));
    }
    let listed: Vec<_> = store.list(Some(&Path::from("_delta_log"))).try_collect().await.expect("an empty listing");
    assert!(listed.is_empty(), "{listed:?}");
}

/// More entries than a page of S3 has, listed from an offset on: exactly those after it.
async fn a_log_is_listed_from_an_offset(store: Arc<dyn ObjectStore>) {
    const ENTRIES: u64 = 1100;
    let entry = |version: u64| Path::from(format!("_delta_log/{version:020}.json"));
    for chunk in (0..ENTRIES).collect::<Vec<_>>().chunks(32) {
        join_all(chunk.iter().map(|version| {
            let (store, path) = (Arc::clone(&store), entry(*version));
            async move { store.put_opts(&path, "{}".into(), create()).await.expect("created") }
        }))
        .await;
    }
    store.put(&Path::from("_delta_log/_last_checkpoint"), "{}".into()).await.expect("written");
    store.put(&Path::from("_delta_log/00000000000000000100.checkpoint.parquet"), "p".into()).await.expect("written");
    store.put(&Path::from("period=2026-01-13T04/x.parquet"), "p".into()).await.expect("written");
    let log = Path::from("_delta_log");
    let names = |listed: Vec<object_store::ObjectMeta>| {
        let mut names: Vec<String> = listed.into_iter().map(|meta| meta.location.to_string()).collect();
        names.sort();
        names
    };
    let after = names(store.list_with_offset(Some(&log), &entry(100)).try_collect().await.expect("listed"));
    let mut expected: Vec<String> = (101..ENTRIES).map(|version| entry(version).to_string()).collect();
    expected.push("_delta_log/_last_checkpoint".to_owned());
    assert_eq!(after, expected, "what lies behind an offset, and only that");
    let all = names(store.list_with_offset(Some(&log), &log).try_collect().await.expect("listed"));
    assert_eq!(all.len() as u64, ENTRIES + 2, "the whole log");
}

async fn a_prefix_hides_what_is_beside_it(store: Arc<dyn ObjectStore>) {
    let raw = PrefixStore::new(Arc::clone(&store), "raw");
    let raw2 = PrefixStore::new(Arc::clone(&store), "raw2");
    raw.put(&Path::from("a"), "raw".into()).await.expect("written");
    raw2.put(&Path::from("b"), "raw2".into()).await.expect("written");
    let listed: Vec<_> = raw.list(None).try_collect().await.expect("listed");
    assert_eq!(listed.iter().map(|meta| meta.location.as_ref()).collect::<Vec<_>>(), ["a"]);
    assert!(matches!(raw.get(&Path::from("b")).await, Err(Error::NotFound { .. })));
    assert_eq!(bytes_of(&store, &Path::from("raw2/b")).await, "raw2");
}

async fn a_large_file_is_whole(store: Arc<dyn ObjectStore>) {
    let bytes: Bytes =
        (0..LARGE_BYTES as u32 / 4).flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let path = Path::from("ingest_date=2026-01-13/e000000000001-g000001-p0-main.parquet");
    store.put(&path, bytes.clone().into()).await.expect("written");
    assert!(bytes_of(&store, &path).await == bytes, "{LARGE_BYTES} bytes came back different");
    let tail = store.get_range(&path, LARGE_BYTES as u64 - 8..LARGE_BYTES as u64).await.expect("the footer");
    assert_eq!(tail, bytes[LARGE_BYTES - 8..]);
}

async fn names_of_partitions_and_commits_are_kept(store: Arc<dyn ObjectStore>) {
    let path = "granularity=minute/period=2026-01-13T04/bucket=7/e000000000001-g000001-minute-hour-day-late-a1.parquet";
    store.put(&Path::from(path), "p".into()).await.expect("written");
    let listed: Vec<_> = store.list(None).try_collect().await.expect("listed");
    assert_eq!(listed.iter().map(|meta| meta.location.as_ref()).collect::<Vec<_>>(), [path]);
}
