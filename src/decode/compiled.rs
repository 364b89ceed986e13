//! The logic, compiled to slots: which places are looked for, and what is done with the values found there.
//!
//! In: a [`Logic`], whose format was checked when the job was read. Out: [`Compiled`], which never changes. No I/O.

use super::json::Trie;
use super::line_format::Lines;
use super::time::TimeRule;
use crate::job::line::LineFormat;
use crate::job::{Condition, FieldSpec, Format, LineField, Logic, Place, Transform};

/// The logic, compiled to slots. Never changes.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) parser: Parser,
    pub(super) record_bytes_max: usize,
    pub(super) customer: Customer,
    pub(super) event_time: Vec<usize>,
    pub(super) time_rule: TimeRule,
    pub(super) fields: Vec<FieldPlan>,
    /// Index of the field, and what must hold.
    pub(super) filters: Vec<(usize, Condition)>,
    /// Index of each dimension's field; `None` for `total`.
    pub(super) dimensions: Vec<Option<usize>>,
}

#[derive(Debug)]
pub(super) enum Parser {
    Json(Trie),
    /// Common or combined access-log format.
    AccessLog,
    /// A format that the job describes.
    Lines(Box<Lines>),
}

#[derive(Debug)]
pub(super) enum Customer {
    Constant(String),
    Found {
        finder: Finder,
        /// Whether a JSON integer is accepted as a customer.
        integers: bool,
    },
}

/// The slots to look at, in order, and what is done with the text.
#[derive(Debug)]
pub(super) struct Finder {
    pub(super) slots: Vec<usize>,
    pub(super) transforms: Vec<Transform>,
}

/// A field that a dimension or filter uses.
#[derive(Debug)]
pub(super) struct FieldPlan {
    pub(super) name: String,
    pub(super) finder: Finder,
    /// Whether its text is used, and not only its presence.
    pub(super) needs_text: bool,
}

impl Compiled {
    /// Compiles the logic.
    pub(super) fn new(logic: &Logic) -> Compiled {
        let mut needs: Vec<Option<bool>> = vec![None; logic.fields.len()];
        let mut need = |field: usize, text: bool| needs[field] = Some(text || needs[field] == Some(true));
        logic.dimensions.iter().filter_map(|dimension| dimension.field).for_each(|field| need(field, true));
        logic.filters.iter().for_each(|filter| need(filter.field, needs_text(&filter.condition)));

        let mut places = Places::default();
        let customer = match &logic.customer {
            FieldSpec::Constant(text) => Customer::Constant(text.clone()),
            FieldSpec::Found { places: found, transforms } => {
                Customer::Found { finder: places.finder(found, transforms), integers: logic.customer_integers }
            }
        };
        let event_time = places.finder(&logic.event_time, &[]);
        // Fields that nothing uses are not looked for; the others are renumbered.
        let mut numbers = vec![None; logic.fields.len()];
        let mut fields = Vec::new();
        for (index, field) in logic.fields.iter().enumerate() {
            if let (Some(needs_text), FieldSpec::Found { places: found, transforms }) = (needs[index], &field.spec) {
                numbers[index] = Some(fields.len());
                fields.push(FieldPlan {
                    name: field.name.clone(),
                    finder: places.finder(found, transforms),
                    needs_text,
                });
            }
        }
        let number = |index: usize| numbers[index].expect("a field that is used was numbered");
        let mut plan = Compiled {
            parser: Parser::AccessLog,
            record_bytes_max: logic.record_bytes_max,
            customer,
            event_time: event_time.slots,
            time_rule: TimeRule::new(logic),
            filters: logic.filters.iter().map(|filter| (number(filter.field), filter.condition.clone())).collect(),
            dimensions: logic.dimensions.iter().map(|dimension| dimension.field.map(number)).collect(),
            fields,
        };
        match &logic.line {
            _ if logic.format == Format::Json => plan.compile_json(&places.pointers),
            None => {}
            Some(line) => {
                let format = LineFormat::parse(line).expect("the format was checked when the job was read");
                plan.parser = Parser::Lines(Box::new(Lines::new(&format, &places.fields, &places.names)));
            }
        }
        plan
    }

    /// Replaces the numbers of pointers, which the slots are until now, by the slots of the trie, which has an order of its own.
    fn compile_json(&mut self, pointers: &[&[String]]) {
        let (trie, slots) = Trie::new(pointers);
        let customer = match &mut self.customer {
            Customer::Found { finder, .. } => finder.slots.as_mut_slice(),
            Customer::Constant(_) => &mut [],
        };
        let fields = self.fields.iter_mut().flat_map(|field| &mut field.finder.slots);
        for slot in customer.iter_mut().chain(&mut self.event_time).chain(fields) {
            *slot = slots[*slot];
        }
        self.parser = Parser::Json(trie);
    }
}

/// Assigns slots to places: pointers are numbered as they come, each field of a line has its own slot, and variables have those
/// after them.
#[derive(Default)]
struct Places<'l> {
    pointers: Vec<&'l [String]>,
    fields: Vec<LineField>,
    names: Vec<&'l str>,
}

impl<'l> Places<'l> {
    fn finder(&mut self, places: &'l [Place], transforms: &[Transform]) -> Finder {
        let slots = places.iter().map(|place| match place {
            Place::Line(field) => {
                self.fields.push(*field);
                *field as usize
            }
            Place::Variable(name) => {
                self.names.push(name);
                LineField::ALL.len() + self.names.len() - 1
            }
            Place::Pointer(pointer) => {
                self.pointers.push(pointer);
                self.pointers.len() - 1
            }
        });
        Finder { slots: slots.collect(), transforms: transforms.to_vec() }
    }
}

fn needs_text(condition: &Condition) -> bool {
    match condition {
        Condition::Exists(_) => false,
        Condition::Not(inner) => needs_text(inner),
        Condition::Equals(_) | Condition::In(_) | Condition::Prefix(_) => true,
    }
}
