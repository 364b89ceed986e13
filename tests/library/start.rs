//! The start of a job over several processes: whichever request to the source is under way, the loss of another process is noticed.

use std::net::TcpListener;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use floodmark::cluster::{ClusterError, Member, Membership, Secret};
use floodmark::dataflow::Progress;
use floodmark::dataflow::commit::Request;
use floodmark::job::Job;
use floodmark::live::{Live, LiveError, run_as};
use floodmark::process::{Clock, Exit};
use floodmark::source::{RecordSource, SourceError, SourceFactory, Txns, Waker};
use floodmark::table::Root;
use object_store::memory::InMemory;
use tokio::sync::watch;

/// The time limit: whatever takes longer hangs, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const JOB: &str = r#"
name = "start"
[source]
topics = ["events"]
[source.kafka]
"bootstrap.servers" = "none"
[tables]
url = "memory://"
[event]
format = "json"
customer = { pointer = "/customer" }
event_time = { pointer = "/time" }
"#;

/// The request that the brokers never answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Check,
    Resume,
}

/// Brokers that are there, but do not answer one kind of request while the test runs.
struct Deaf {
    question: Question,
    asked: Sender<()>,
    answers: Mutex<Receiver<()>>,
}

impl Deaf {
    fn ask(&self, question: Question) -> Result<(), SourceError> {
        if self.question == question {
            self.asked.send(()).ok();
            self.answers.lock().expect("asked once").recv().ok();
        }
        Ok(())
    }
}

impl SourceFactory for Deaf {
    fn check(&self) -> Result<(), SourceError> {
        self.ask(Question::Check)
    }

    fn resume(&self, _: &Txns) -> Result<(), SourceError> {
        self.ask(Question::Resume)
    }

    fn open(&self, _: usize, _: usize, _: Waker) -> Result<Box<dyn RecordSource>, SourceError> {
        Err(SourceError::Retry("it did not come so far".to_owned()))
    }
}

fn members() -> [Membership; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    let hosts: Vec<_> = listeners.iter().map(|it| it.local_addr().expect("bound").to_string()).collect();
    let secret = Secret::new("a secret of these tests").expect("long enough");
    [0, 1].map(|index| Membership { index, hosts: hosts.clone(), secret: secret.clone(), wait: PATIENCE })
}

fn join(membership: Membership, job: &Job) -> Member {
    Member::join(membership, job, None, 1, &|| false, Box::new(|| ())).expect("both are there")
}

#[test]
fn the_loss_of_a_process_is_heard_while_the_source_is_asked() {
    for question in [Question::Check, Question::Resume] {
        let [zero, one] = members();
        let (asked, is_asked) = channel();
        let (answer, answers) = channel();
        let (ended, has_ended) = channel();
        thread::spawn(move || {
            let job = Job::parse(JOB, "start.toml", &|_| None).expect("a job");
            let member = join(zero, &job);
            let live = Live {
                job,
                root: Root::on(Arc::new(InMemory::new())),
                workers: 1,
                clock: Clock::System,
                source: Arc::new(Deaf { question, asked, answers: Mutex::new(answers) }),
                progress: Arc::new(Progress::default()),
            };
            let (_request, requested) = watch::channel(Request::Run);
            ended.send(run_as(member, live, requested)).ok();
        });
        let job = Job::parse(JOB, "start.toml", &|_| None).expect("a job");
        let member = join(one, &job);
        member.ready().expect("process 0 is there");
        is_asked.recv_timeout(PATIENCE).expect("the source is asked");
        member.end(Exit::TryAgain, "killed");
        let end = has_ended.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{question:?}: deaf while it is asked"));
        match end {
            Err(LiveError::Cluster(ClusterError::Ended(end))) => {
                assert!(end.exit == Exit::TryAgain && end.what.starts_with("process 1 at "), "{question:?}: {end:?}");
            }
            other => panic!("{question:?}: {other:?}"),
        }
        drop(answer);
    }
}
