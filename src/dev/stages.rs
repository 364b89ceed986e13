//! CPU time by stage: what the threads of this process spend within each span.
//!
//! In: the spans of this crate, as they are entered and left. Out: the CPU time of each stage, without that of the spans within it, and the
//! time that threads spend outside of all spans, by thread. Time: the clock of the thread's CPU time, so what else runs on the machine does
//! not matter. State: one sum for each stage. Failure: none; a thread that never enters a span is not seen.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, MutexGuard};

use hashbrown::HashMap;
use rustix::time::{ClockId, clock_gettime};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::process::lock;

/// The layer that measures. It must be part of the subscriber from the start.
pub fn stage_cpu<S: Subscriber + for<'a> LookupSpan<'a> + 'static>() -> impl Layer<S> {
    let ours = filter_fn(|of: &Metadata<'_>| of.is_span() && of.target().starts_with("floodmark"));
    <Stages as Layer<S>>::with_filter(Stages, ours)
}

/// What a stage has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) cpu_ns: u64,
    pub(super) entries: u64,
}

/// What each stage has used so far; empty if nothing measures.
pub(super) fn used() -> BTreeMap<String, Used> {
    let known = lock(&KNOWN);
    known.numbers.iter().map(|(name, number)| (name.clone(), known.used[*number])).collect()
}

/// CPU time of the whole process so far, in nanoseconds.
pub(super) fn process_cpu_ns() -> u64 {
    ns(ClockId::ProcessCPUTime)
}

/// CPU time of this thread so far, in nanoseconds.
pub(super) fn thread_cpu_ns() -> u64 {
    ns(ClockId::ThreadCPUTime)
}

fn ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// All stages, by number.
#[derive(Default)]
struct Known {
    numbers: HashMap<String, usize>,
    used: Vec<Used>,
}

static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

impl Known {
    fn number(&mut self, name: &str) -> usize {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        self.used.push(Used::default());
        self.numbers.insert(name.to_owned(), self.used.len() - 1);
        self.used.len() - 1
    }
}

/// Where a thread is.
struct Here {
    /// The spans that it is in, as numbers of stages; below them, the thread itself.
    within: Vec<usize>,
    /// Its CPU time when it entered or left the last one.
    since_ns: u64,
}

impl Here {
    fn new() -> Here {
        let thread = std::thread::current();
        // The workers are numbered.
        let name = thread.name().unwrap_or("unnamed").trim_end_matches(|it: char| it.is_ascii_digit() || it == '-');
        Here { within: vec![lock(&KNOWN).number(&format!("outside {name}"))], since_ns: 0 }
    }

    fn enter(&mut self, stage: Option<usize>) {
        let stage = stage.unwrap_or(self.within[0]);
        self.charge().used[stage].entries += 1;
        self.within.push(stage);
    }

    fn leave(&mut self) {
        drop(self.charge());
        if self.within.len() > 1 {
            self.within.pop();
        }
    }

    /// Adds the time since the last change to the innermost stage.
    fn charge(&mut self) -> MutexGuard<'static, Known> {
        let now = thread_cpu_ns();
        let mut known = lock(&KNOWN);
        if let Some(within) = self.within.last() {
            known.used[*within].cpu_ns += now - self.since_ns;
        }
        self.since_ns = now;
        known
    }
}

thread_local! {
    static HERE: RefCell<Here> = RefCell::new(Here::new());
}

/// The number of a span's stage.
struct Stage(usize);

struct Stages;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Stages {
    fn on_new_span(&self, of: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut name = Name(of.metadata().name().to_owned());
        of.record(&mut name);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(Stage(lock(&KNOWN).number(&name.0)));
        }
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        let stage = context.span(id).and_then(|span| span.extensions().get::<Stage>().map(|stage| stage.0));
        // A thread that is ending is not measured any more.
        HERE.try_with(|here| here.borrow_mut().enter(stage)).ok();
    }

    fn on_exit(&self, _: &Id, _: Context<'_, S>) {
        HERE.try_with(|here| here.borrow_mut().leave()).ok();
    }
}

/// A stage's name: that of the span, followed by what distinguishes its work: the lanes of a merge (they are in its file's name), its
/// granularity, the table of a commit.
struct Name(String);

impl Visit for Name {
    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}

    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() == "seals" && value {
            self.0 += " seals";
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "granularity" | "table" => self.0 = format!("{} {value}", self.0),
            "file" => {
                let lanes = value.splitn(3, '-').nth(2).and_then(|rest| rest.rsplit_once('-'));
                self.0 = format!("{} {}", self.0, lanes.map_or(value, |(lanes, _)| lanes));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn work() -> u64 {
        let begun = thread_cpu_ns();
        let mut sum = 0_u64;
        while thread_cpu_ns() - begun < 5_000_000 {
            sum = std::hint::black_box(sum + 1);
        }
        sum
    }

    #[test]
    fn a_stage_has_the_time_that_spans_within_it_have_not() {
        tracing::subscriber::with_default(tracing_subscriber::registry().with(stage_cpu()), || {
            let _outer = tracing::debug_span!("of_test", granularity = "day", file = "e1-g1-hour-day-a1").entered();
            work();
            let _inner = tracing::trace_span!("of_test_within", seals = true).entered();
            work();
            work();
        });
        let used = used();
        let ms = |stage: &str| used[stage].cpu_ns / 1_000_000;
        // The clock is that of this thread's CPU, so the machine's load does not matter.
        assert!((5..10).contains(&ms("of_test day hour-day")), "{used:?}");
        assert!((10..20).contains(&ms("of_test_within seals")), "{used:?}");
    }
}
