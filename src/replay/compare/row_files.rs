//! The rows of `raw` whose outcome has changed, as files that anyone can query.
//!
//! In: encoded rows, from chunks on the store or from memory. Out: `replays/<id>/rows/<attempt>-<n>.parquet`. How rows are distributed over
//! files depends on the workers, so each run of a replay uses its own names; the summary names the files that are valid. State: the paths.
//! Restart: a new run writes files with other names; `discard::tidy` deletes the old ones.

use bytes::Bytes;
use object_store::path::Path;

use crate::replay::request::submission::Submission;
use crate::table::store::{look_at_file, write_file};
use crate::table::{Root, TableError};

/// The files with the rows whose outcome has changed. How rows are distributed over files depends on the workers, so each run uses its own
/// names.
pub struct RowFiles<'a> {
    /// Where the tables are.
    pub root: &'a Root,
    /// The replay.
    pub id: &'a str,
    /// Distinguishes the files of this run from those of other runs of the same replay.
    pub attempt: &'a str,
    /// The paths that were written.
    pub paths: Vec<String>,
}

impl RowFiles<'_> {
    /// Copies a file of a chunk.
    ///
    /// # Errors
    /// [`TableError::Storage`].
    pub async fn copy(&mut self, path: &str) -> Result<(), TableError> {
        let bytes = look_at_file(self.root.store().as_ref(), &Path::from(path))
            .await
            .map_err(|error| TableError::storage(format!("reading {path}"), error))?;
        self.write(bytes).await
    }

    /// Writes a file.
    ///
    /// # Errors
    /// [`TableError::Storage`].
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), TableError> {
        let name = format!("rows/{}-{:05}.parquet", self.attempt, self.paths.len());
        let path = Submission::path(self.id, &name);
        write_file(self.root.store().as_ref(), &path, bytes).await?;
        self.paths.push(path);
        Ok(())
    }
}
