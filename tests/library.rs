//! Tests of the library in this process, with stores in memory, scripted topics, and clocks that the tests control.
//!
//! They are one crate, since separate crates would each compile most of the library again.

mod library {
    mod access_log;
    mod foreign;
    mod format;
    mod job_files;
    mod ladder;
    mod layout;
    mod log;
    mod oracle;
    mod panics;
    mod protocol;
    mod records;
    mod replay;
    mod replay_publish;
    mod replay_run;
    mod schemas;
    mod start;
    mod storage_contract;
    mod upkeep;
}
mod support;
