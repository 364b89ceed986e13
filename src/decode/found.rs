//! What was found in one record, place by place. No text is copied unless it was escaped.
//!
//! In: ranges of the input, or texts. Out: kind and text of each place. State: one slot for each place and a scratch buffer,
//! reused from record to record.

/// What is at a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing.
    #[default]
    Missing,
    /// JSON's null.
    Null,
    /// A text.
    Text,
    /// A text in the scratch buffer and not in the input, because it had to be unescaped or is the decoder's own.
    Unescaped,
    /// A JSON number, as it is written.
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
    /// Makes room for `slots` places.
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

    /// Sets a place to `part`: a part of `input`, or another text, which is copied.
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

    /// The text of a slot: '' if it is missing or null, JSON if it is an object or array.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_from_anywhere_is_kept_whole() {
        // In one buffer, so that parts lie directly before and directly after the input.
        let buffer = "before|input|behind".to_owned();
        let input = &buffer[7..12];
        for part in
            ["/", "", &buffer[..7], &buffer[..8], &buffer[11..], &buffer[12..], input, &input[1..3], &input[5..]]
        {
            let mut found = Found::new(2);
            found.set(0, Kind::Text, "other", input);
            found.set(1, Kind::Text, part, input);
            assert_eq!((found.text(found.slot(0), input), found.text(found.slot(1), input)), ("other", part));
            assert_eq!(Found::is_present(found.slot(1)), !part.is_empty());
        }
    }
}
