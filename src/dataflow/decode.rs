//! `decode`: turns records into events and outcomes.
//!
//! In: chunks of records. Out: the events that count, to `combine`; every record with its outcome, to `archive`. Time: unchanged;
//! nothing is held back. State: none. Failure: none; a record that can not be decoded is data, with a reason.

use std::rc::Rc;

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use crate::decode::{Decoder, Event};
use crate::model::{Epoch, Events, Outcome, Records, TimeUs};

/// A chunk of records, and what became of each: outcome and event time.
#[derive(Clone)]
pub struct Decoded {
    /// The records.
    pub records: Rc<Records>,
    /// The outcome and event time of each record.
    pub outcomes: Rc<Vec<(Outcome, Option<TimeUs>)>>,
}

/// Builds the operator.
pub fn decode<'scope>(
    records: StreamVec<'scope, Epoch, Records>,
    mut decoder: Decoder,
) -> (StreamVec<'scope, Epoch, Events>, StreamVec<'scope, Epoch, Decoded>) {
    let mut builder = OperatorBuilder::new("decode".to_owned(), records.scope());
    let mut input = builder.new_input(records, Pipeline);
    let (events_output, events_stream) = builder.new_output::<Vec<Events>>();
    let (decoded_output, decoded_stream) = builder.new_output::<Vec<Decoded>>();
    let mut events_output = OutputBuilder::from(events_output);
    let mut decoded_output = OutputBuilder::from(decoded_output);
    builder.build(move |_capabilities| {
        let mut event = Event::default();
        move |_frontiers| {
            let _span = tracing::trace_span!("decode").entered();
            let mut events_output = events_output.activate();
            let mut decoded_output = decoded_output.activate();
            input.for_each(|capability, chunks| {
                for records in chunks.drain(..) {
                    let mut events = Events::default();
                    let mut outcomes = Vec::with_capacity(records.len());
                    for record in records.iter() {
                        let outcome = decoder.decode(record, &mut event);
                        if let (Outcome::Counted, Some(time)) = (&outcome, event.event_time) {
                            events.push(record.epoch, record.ingested_at, time, &event.customer, &event.values);
                        }
                        outcomes.push((outcome, event.event_time));
                    }
                    if !events.is_empty() {
                        events_output.session(&capability.retain(0)).give(events);
                    }
                    let decoded = Decoded { records: Rc::new(records), outcomes: Rc::new(outcomes) };
                    decoded_output.session(&capability.retain(1)).give(decoded);
                }
            });
        }
    });
    (events_stream, decoded_stream)
}
