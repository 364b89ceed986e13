//! The files of the archive in numbered chunks: a killed replay goes on after the chunks that are done.
//!
//! In: the files that a replay reads, in their order. Out: chunks of about so many bytes, each worker's files of them, and the
//! dataflow's time: `chunk << 32 | step`. How files are cut depends on the submission alone, so every run of it finds the same
//! chunks; how they are shared out depends on the number of workers. Pure.

use crate::model::Epoch;
use crate::table::File;

/// Bytes of files in a chunk, unless a submission says otherwise.
pub const CHUNK_BYTES: u64 = 1 << 30;

/// The number of a chunk of files.
pub type Chunk = u32;

/// The first moment of a chunk.
pub fn start_of(chunk: Chunk) -> Epoch {
    Epoch::from(chunk) << 32
}

/// The chunk of a moment.
pub fn chunk_of(epoch: Epoch) -> Chunk {
    (epoch >> 32) as Chunk
}

/// Cuts files into chunks: a killed replay goes on after the last whole one.
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

/// The files whose numbers one reader takes, by chunk. Numbers go on from chunk to chunk, since a chunk may have fewer files than
/// there are workers.
pub fn shared_out(chunks: &[(Chunk, Vec<File>)], is_theirs: impl Fn(usize) -> bool) -> Vec<(Chunk, Vec<File>)> {
    let mut numbers = 0..;
    let mut theirs = |files: &[File]| {
        let numbered = files.iter().zip(&mut numbers);
        numbered.filter(|(_, number)| is_theirs(*number)).map(|(file, _)| file.clone()).collect()
    };
    chunks.iter().map(|(chunk, files)| (*chunk, theirs(files))).collect()
}
