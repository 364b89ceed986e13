//! What was found in one record, place by place: no text is copied unless it was escaped.

/// What stands at a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing.
    #[default]
    Missing,
    /// JSON's null.
    Null,
    /// A text.
    Text,
    /// A text that had to be unescaped: it stands in the scratch buffer.
    Unescaped,
    /// A JSON number, as it stands.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A JSON object or array.
    Composite,
}

/// A place's value: a kind, and where its bytes are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot {
    pub(super) kind: Kind,
    start: u32,
    end: u32,
}

/// All places of a record; reused from record to record.
#[derive(Debug, Default)]
pub(super) struct Found {
    slots: Vec<Slot>,
    scratch: String,
}

impl Found {
    /// For `slots` places.
    pub(super) fn new(slots: usize) -> Self {
        Found { slots: vec![Slot::default(); slots], scratch: String::new() }
    }

    /// Forgets the last record.
    pub(super) fn clear(&mut self) {
        self.slots.fill(Slot::default());
        self.scratch.clear();
    }

    /// Forgets some places: an object that comes a second time replaces the first.
    pub(super) fn clear_range(&mut self, range: std::ops::Range<usize>) {
        self.slots[range].fill(Slot::default());
    }

    /// What is at a place.
    pub(super) fn slot(&self, index: usize) -> Slot {
        self.slots[index]
    }

    /// Sets a place to `part`: a part of `input`, or a text of our own, which is copied.
    pub(super) fn set(&mut self, index: usize, kind: Kind, part: &str, input: &str) {
        let start = (part.as_ptr() as usize).checked_sub(input.as_ptr() as usize);
        match start.filter(|start| start + part.len() <= input.len()) {
            Some(start) => self.set_range(index, kind, start..start + part.len()),
            None => {
                let start = self.scratch.len() as u32;
                self.scratch.push_str(part);
                self.slots[index] = Slot { kind: Kind::Unescaped, start, end: self.scratch.len() as u32 };
            }
        }
    }

    /// Sets a place to a range of the input.
    pub(super) fn set_range(&mut self, index: usize, kind: Kind, range: std::ops::Range<usize>) {
        self.slots[index] = Slot { kind, start: range.start as u32, end: range.end as u32 };
    }

    /// Sets a place to a text that `write` puts into the scratch buffer.
    pub(super) fn set_unescaped<E>(
        &mut self,
        index: usize,
        write: impl FnOnce(&mut String) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = self.scratch.len() as u32;
        write(&mut self.scratch)?;
        self.slots[index] = Slot { kind: Kind::Unescaped, start, end: self.scratch.len() as u32 };
        Ok(())
    }

    /// The text of a slot: '' where missing or null, JSON where it is an object or array.
    pub(super) fn text<'a>(&'a self, slot: Slot, input: &'a str) -> &'a str {
        let range = slot.start as usize..slot.end as usize;
        match slot.kind {
            Kind::Missing | Kind::Null => "",
            Kind::Unescaped => &self.scratch[range],
            Kind::Text | Kind::Number | Kind::Boolean | Kind::Composite => &input[range],
        }
    }

    /// Whether something is at the slot: not missing, not null, not ''.
    pub(super) fn is_present(slot: Slot) -> bool {
        match slot.kind {
            Kind::Missing | Kind::Null => false,
            Kind::Text | Kind::Unescaped => slot.start < slot.end,
            Kind::Number | Kind::Boolean | Kind::Composite => true,
        }
    }
}
