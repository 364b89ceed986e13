//! Cuts the files of the archive into numbered chunks, so that a killed replay continues after the chunks that are done.
//!
//! In: the files that a replay reads, in their order. Out: chunks of about the given size, each worker's files of them, and the timestamps
//! of the dataflow: `chunk << 32 | step`. The cuts depend only on the submission, so every run of it finds the same chunks; how the files
//! are shared out depends on the number of workers. Pure.

use crate::model::Epoch;
use crate::table::File;

/// Bytes of files in a chunk, unless the submission has another value.
pub const CHUNK_BYTES: u64 = 1 << 30;

/// The number of a chunk of files.
pub type Chunk = u32;

/// The first timestamp of a chunk.
pub fn start_of(chunk: Chunk) -> Epoch {
    Epoch::from(chunk) << 32
}

/// The chunk of a timestamp.
pub fn chunk_of(epoch: Epoch) -> Chunk {
    (epoch >> 32) as Chunk
}

/// Cuts files into chunks. A killed replay continues after the last chunk that is done.
pub fn chunks(files: Vec<File>, chunk_bytes: u64) -> Vec<(Chunk, Vec<File>)> {
    let mut chunks: Vec<(Chunk, Vec<File>)> = Vec::new();
    let mut bytes = 0;
    for file in files {
        if bytes >= chunk_bytes || chunks.is_empty() {
            chunks.push((chunks.len() as Chunk, Vec::new()));
            bytes = 0;
        }
        bytes += file.size;
        if let Some((_, files)) = chunks.last_mut() {
            files.push(file);
        }
    }
    chunks
}

/// The files of one reader, by chunk: those whose numbers it takes. Numbers continue from chunk to chunk, since a chunk may have fewer
/// files than there are workers.
pub fn shared_out(chunks: &[(Chunk, Vec<File>)], is_theirs: impl Fn(usize) -> bool) -> Vec<(Chunk, Vec<File>)> {
    let mut numbers = 0..;
    let mut theirs = |files: &[File]| {
        let numbered = files.iter().zip(&mut numbers);
        numbered.filter(|(_, number)| is_theirs(*number)).map(|(file, _)| file.clone()).collect()
    };
    chunks.iter().map(|(chunk, files)| (*chunk, theirs(files))).collect()
}
