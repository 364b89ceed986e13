//! The control dataflow: it carries orders from the committer to every worker, and answers back.
//!
//! ```text
//! committer ─► orders (worker 0) ══broadcast══► inboxes of source, raw, pending   (every worker)
//! committer ◄─ (worker 0) ◄══exchange══ answers                                   (every worker)
//! ```
//!
//! It is a dataflow of its own, so that no message waits for the frontier of the data. Time: everything is at time 0; every
//! worker receives the orders in the same sequence. State: messages in flight. It ends with the orders: on [`Order::Stop`] every
//! worker drops its capabilities. Failure: messages after the end are dropped.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::mpsc;

use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::operator::{Operator, source};
use timely::dataflow::operators::vec::Broadcast;
use timely::scheduling::{Activator, SyncActivator};
use timely::worker::Worker;
use tokio::sync::mpsc::UnboundedSender;

use super::protocol::{Answer, Order};

/// Orders that an operator has not read yet.
#[derive(Clone, Default)]
pub struct Inbox {
    orders: Rc<RefCell<VecDeque<Order>>>,
    activator: Rc<RefCell<Option<Activator>>>,
}

impl Inbox {
    /// An empty inbox.
    pub fn new() -> Self {
        Inbox::default()
    }

    /// Sets what wakes the operator when an order comes.
    pub fn wake(&self, activator: Activator) {
        *self.activator.borrow_mut() = Some(activator);
    }

    /// The next order, if any.
    pub fn next(&self) -> Option<Order> {
        self.orders.borrow_mut().pop_front()
    }

    fn push(&self, order: Order) {
        self.orders.borrow_mut().push_back(order);
        if let Some(activator) = &*self.activator.borrow() {
            activator.activate();
        }
    }
}

/// Sends answers of one worker, from any thread.
#[derive(Clone)]
pub struct Answers {
    sender: mpsc::Sender<Answer>,
    activator: std::sync::Arc<SyncActivator>,
}

impl Answers {
    /// Sends an answer. After the end of the dataflow the answer is dropped.
    pub fn send(&self, answer: Answer) {
        if self.sender.send(answer).is_ok() && self.activator.activate().is_err() {
            tracing::debug!("answer dropped, its worker has ended");
        }
    }
}

/// Worker 0's ends of the channels to the committer, which is in the same process.
pub struct CommitterEnds {
    /// Orders from the committer.
    pub orders: mpsc::Receiver<Order>,
    /// Answers to the committer.
    pub answers: UnboundedSender<Answer>,
    /// Receives what wakes worker 0 for an order.
    pub wake: mpsc::Sender<SyncActivator>,
}

/// Builds the control dataflow on a worker. Only worker 0 gets `ends`. Returns the sender of the worker's answers.
pub fn build(worker: &mut Worker, inboxes: Vec<Inbox>, ends: Option<CommitterEnds>) -> Answers {
    worker.dataflow_named::<u64, _, _>("control", |scope| {
        let (receiver, to_committer, wake) = match ends {
            Some(ends) => (Some(ends.orders), Some(ends.answers), Some(ends.wake)),
            None => (None, None, None),
        };
        let orders = source(scope, "orders", |capability, info| {
            if let Some(wake) = wake {
                let told = wake.send(scope.worker().sync_activator_for(info.address.to_vec()));
                debug_assert!(told.is_ok(), "the committer waits for this before it orders anything");
            }
            let mut held = receiver.map(|receiver| (capability, receiver));
            move |output| {
                let Some((capability, receiver)) = &held else { return };
                let mut stopped = false;
                let mut session = output.session(capability);
                for order in receiver.try_iter() {
                    stopped |= matches!(order, Order::Stop);
                    session.give(order);
                }
                drop(session);
                if stopped {
                    held = None;
                }
            }
        });
        let stopped = Rc::new(RefCell::new(None::<Activator>));
        let is_stopped = Rc::new(RefCell::new(false));
        let (stop_answers, stop_seen) = (Rc::clone(&stopped), Rc::clone(&is_stopped));
        orders.broadcast().sink(Pipeline, "inboxes", move |(input, _frontier)| {
            input.for_each(|_time, orders| {
                for order in orders.drain(..) {
                    if matches!(order, Order::Stop) {
                        *stop_seen.borrow_mut() = true;
                        if let Some(activator) = &*stop_answers.borrow() {
                            activator.activate();
                        }
                    }
                    for inbox in &inboxes {
                        inbox.push(order.clone());
                    }
                }
            });
        });

        let (sender, receiver) = mpsc::channel();
        let mut activator = None;
        let answers = source(scope, "answers", |capability, info| {
            activator = Some(scope.worker().sync_activator_for(info.address.to_vec()));
            *stopped.borrow_mut() = Some(scope.activator_for(info.address));
            let mut held = Some(capability);
            move |output| {
                if let Some(capability) = &held {
                    output.session(capability).give_iterator(receiver.try_iter());
                }
                if *is_stopped.borrow() {
                    held = None;
                }
            }
        });
        answers.sink(Exchange::new(|_: &Answer| 0), "answered", move |(input, _frontier)| {
            input.for_each(|_time, answers| {
                for answer in answers.drain(..) {
                    if let Some(to_committer) = &to_committer {
                        // A committer that has ended has reported why.
                        to_committer.send(answer).ok();
                    }
                }
            });
        });
        let activator = activator.expect("the source above was constructed");
        Answers { sender, activator: std::sync::Arc::new(activator) }
    })
}
