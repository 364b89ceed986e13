//! Writes one event as JSON, well-formed or broken, directly into bytes.
//!
//! In: what the event is about, and randomness. Out: bytes, appended to a buffer. State: the text from which padding is cut. Pure.

use super::random::{Random, Weighted, mix};
use super::text::{hex, push_number, push_padded, push_rfc3339_ms, push_uuid};
use super::vocabulary::{ACTIONS, COUNTRIES, Country, DEVICES, PATHS, REFERRERS, SEARCHES, WORDS};
use crate::model::Reason;

const DAY_MS: i64 = 86_400_000;
const YEAR_2000_MS: i64 = 946_684_800_000;
const YEAR_2100_MS: i64 = 4_102_444_800_000;
/// The largest record that a job accepts by default (`record_bytes_max`).
pub(super) const RECORD_BYTES_MAX: usize = 1 << 20;

/// The faults of broken records, in the order in which they take turns, each with its number of variants.
pub(super) const FAULTS: [(Reason, u64); 6] = [
    (Reason::Empty, 2),
    (Reason::BadJson, 7),
    (Reason::MissingField, 5),
    (Reason::WrongType, 4),
    (Reason::BadTime, 4),
    (Reason::TimeOutOfRange, 5),
];

/// What a record is about.
pub(super) struct Event {
    pub(super) customer: u64,
    pub(super) visitor: u64,
    pub(super) session: u64,
    pub(super) event_time_ms: i64,
    pub(super) timestamp_ms: i64,
}

/// An unusual property of an event.
#[derive(Default)]
struct Oddity {
    customer: Field,
    time: Field,
    bytes_min: usize,
}

#[derive(Default)]
enum Field {
    #[default]
    Usual,
    Absent,
    Json(&'static str),
    Time(i64),
}

/// Draws the content of an event, and writes it.
#[derive(Clone, Debug)]
pub(super) struct EventWriter {
    countries: Weighted,
    actions: Weighted,
    devices: Weighted,
    /// 64 KiB of words, from which padding is cut.
    padding: Vec<u8>,
    event_bytes: usize,
}

impl EventWriter {
    /// Events are padded up to `event_bytes`.
    pub(super) fn new(event_bytes: usize, random: &mut Random) -> Self {
        let mut padding = Vec::with_capacity(1 << 16);
        while padding.len() < 1 << 16 {
            padding.extend_from_slice(random.pick(&WORDS).as_bytes());
            padding.push(b' ');
        }
        EventWriter {
            countries: Weighted::new(&COUNTRIES.map(|country| f64::from(country.weight))),
            actions: Weighted::new(&ACTIONS.map(|(_, weight)| f64::from(weight))),
            devices: Weighted::new(&DEVICES.map(|device| f64::from(device.weight))),
            padding,
            event_bytes,
        }
    }

    /// Appends a well-formed event.
    pub(super) fn write(&self, event: &Event, random: &mut Random, out: &mut Vec<u8>) {
        self.write_odd(event, Oddity::default(), random, out);
    }

    /// Appends a broken record: `variant` of `reason`.
    pub(super) fn write_broken(
        &self,
        event: &Event,
        reason: Reason,
        variant: u64,
        random: &mut Random,
        out: &mut Vec<u8>,
    ) {
        let mut oddity = Oddity::default();
        match (reason, variant) {
            (Reason::MissingField, 0) => oddity.customer = Field::Absent,
            (Reason::MissingField, 1) => oddity.time = Field::Absent,
            (Reason::MissingField, 2) => oddity.customer = Field::Json("null"),
            (Reason::MissingField, 3) => oddity.time = Field::Json("null"),
            (Reason::MissingField, _) => oddity.customer = Field::Json("\"\""),
            (Reason::WrongType, 0) => oddity.customer = Field::Json("[\"shop-00001\"]"),
            (Reason::WrongType, 1) => oddity.time = Field::Json("true"),
            (Reason::WrongType, 2) => oddity.customer = Field::Json("{\"id\":7}"),
            (Reason::WrongType, _) => oddity.time = Field::Json("{\"seconds\":1767225600}"),
            (Reason::BadTime, 0) => oddity.time = Field::Json("\"yesterday\""),
            (Reason::BadTime, 1) => oddity.time = Field::Json("\"2026-02-30T12:00:00.000Z\""),
            (Reason::BadTime, 2) => oddity.time = Field::Json("\"13/01/2026 04:05\""),
            (Reason::BadTime, _) => oddity.time = Field::Json("\"2026-01-13T25:61:00Z\""),
            (Reason::TimeOutOfRange, 0) => oddity.time = Field::Time(YEAR_2000_MS - 1),
            (Reason::TimeOutOfRange, 1) => oddity.time = Field::Time(YEAR_2100_MS),
            (Reason::TimeOutOfRange, 2) => oddity.time = Field::Time(event.timestamp_ms + DAY_MS + 1),
            (Reason::TimeOutOfRange, 3) => oddity.time = Field::Json("0"),
            (Reason::TimeOutOfRange, _) => oddity.time = Field::Time(event.timestamp_ms + 400 * DAY_MS),
            (Reason::TooLarge, _) => oddity.bytes_min = RECORD_BYTES_MAX + 1 + random.below(4096) as usize,
            _ => {}
        }
        self.write_odd(event, oddity, random, out);
        let half = out.len() / 2;
        match (reason, variant) {
            // Truncated; an array; two objects; plain text; bytes after the object; bytes that are not text; a superfluous comma.
            (Reason::BadJson, 0) => {
                let mut end = half;
                while out[end] & 0b1100_0000 == 0b1000_0000 {
                    end -= 1;
                }
                out.truncate(end);
            }
            (Reason::BadJson, 1) => {
                out.insert(0, b'[');
                out.push(b']');
            }
            (Reason::BadJson, 2) => out.extend_from_within(..),
            (Reason::BadJson, 3) => {
                out.clear();
                out.extend_from_slice(b"GET /health HTTP/1.1");
            }
            (Reason::BadJson, 4) => out.push(0xc3),
            (Reason::BadJson, 5) => {
                out.clear();
                out.push(0xff);
                for _ in 0..8 {
                    out.extend_from_slice(&random.next().to_le_bytes());
                }
            }
            (Reason::BadJson, _) => {
                let end = out.len() - 1;
                out.insert(end, b',');
            }
            _ => {}
        }
    }

    fn write_odd(&self, event: &Event, oddity: Oddity, random: &mut Random, out: &mut Vec<u8>) {
        let bits = random.next();
        let action = self.actions.draw(random.next());
        let traits = mix(event.visitor ^ 0x7472_6169_7473);
        let home = &COUNTRIES[self.countries.draw(traits)];
        let product = mix(event.customer ^ (bits >> 48)) % 10_000;

        out.extend_from_slice(b"{\"eventId\":\"");
        push_uuid(out, random.next(), bits ^ event.session);
        out.extend_from_slice(b"\",\"schemaVersion\":\"1.");
        out.push(b'2' + (bits & 1) as u8);
        out.push(b'"');
        match oddity.customer {
            Field::Absent => {}
            Field::Json(json) => field(out, "analyticsCustomerId", json.as_bytes()),
            _ => {
                out.extend_from_slice(b",\"analyticsCustomerId\":\"shop-");
                push_padded(out, event.customer, 5);
                out.push(b'"');
            }
        }
        out.extend_from_slice(b",\"sessionId\":\"");
        out.extend_from_slice(&hex(event.session));
        out.push(b'"');
        match oddity.time {
            Field::Absent => {}
            Field::Json(json) => field(out, "dateTimeUtc", json.as_bytes()),
            // Sometimes milliseconds as an integer.
            Field::Usual if bits >> 1 & 31 == 0 => {
                out.extend_from_slice(b",\"dateTimeUtc\":");
                push_number(out, event.event_time_ms.unsigned_abs());
            }
            Field::Usual => time_field(out, "dateTimeUtc", event.event_time_ms, None),
            Field::Time(time_ms) => time_field(out, "dateTimeUtc", time_ms, None),
        }
        if bits >> 6 & 3 == 0 {
            time_field(out, "dateTimeLocal", event.event_time_ms, Some(home.offset_minutes));
        }
        if bits >> 8 & 1 == 0 {
            // The client's clock at its last try, just before Kafka received the record.
            time_field(out, "sentAt", (event.timestamp_ms - 15).max(event.event_time_ms), None);
        }
        self.write_page(event, action, product, bits, out);
        self.write_user(event, traits, home, bits, out);
        self.write_parameters(action, product, bits, out, oddity.bytes_min.max(self.event_bytes));
    }

    fn write_page(&self, event: &Event, action: usize, product: u64, bits: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"url\":\"https://shop-");
        push_padded(out, event.customer, 5);
        out.extend_from_slice(b".example");
        match ACTIONS[action].0 {
            "product_view" | "add_to_cart" | "add_to_wishlist" => {
                out.extend_from_slice(b"/p/");
                push_number(out, product);
            }
            "checkout" | "purchase" | "remove_from_cart" => out.extend_from_slice(b"/cart"),
            "search" => out.extend_from_slice(b"/search"),
            _ => out.extend_from_slice(PATHS[(bits >> 9) as usize % PATHS.len()].as_bytes()),
        }
        out.push(b'"');
        let referrer = REFERRERS[(bits >> 15) as usize % REFERRERS.len()];
        if !referrer.is_empty() {
            text_field(out, "referrer", referrer);
        }
        text_field(out, "action", ACTIONS[action].0);
    }

    fn write_user(&self, event: &Event, traits: u64, home: &Country, bits: u64, out: &mut Vec<u8>) {
        let device = &DEVICES[self.devices.draw(mix(traits))];
        out.extend_from_slice(b",\"userInfo\":{\"visitorId\":\"");
        out.extend_from_slice(&hex(event.visitor));
        out.push(b'"');
        if bits >> 21 & 1 == 0 {
            text_field(out, "userAgent", device.agent);
        }
        text_field(out, "browser", device.browser);
        text_field(out, "os", device.os);
        text_field(out, "deviceType", device.kind);
        if bits >> 23 & 1 == 0 {
            text_field(out, "locale", home.locale);
        }
        // One visitor in sixteen can not be located; for a few of these, null is sent.
        match traits >> 40 & 63 {
            0..=2 => {}
            3 => field(out, "country", b"null"),
            _ => text_field(out, "country", home.code),
        }
        if bits >> 24 & 1 == 0 {
            text_field(out, "timeZone", home.zone);
        }
        out.push(b'}');
    }

    fn write_parameters(&self, action: usize, product: u64, bits: u64, out: &mut Vec<u8>, bytes_min: usize) {
        out.extend_from_slice(b",\"actionParameters\":{");
        let empty = out.len();
        match ACTIONS[action].0 {
            "product_view" | "add_to_cart" | "add_to_wishlist" | "remove_from_cart" => {
                out.extend_from_slice(b"\"productId\":\"p-");
                push_number(out, product);
                out.extend_from_slice(b"\",\"price\":");
                push_number(out, 5 + product % 200);
                out.extend_from_slice(b".95");
            }
            "purchase" | "checkout" => {
                out.extend_from_slice(b"\"cartId\":\"");
                out.extend_from_slice(&hex(bits));
                out.extend_from_slice(b"\",\"items\":");
                push_number(out, 1 + product % 5);
                out.extend_from_slice(b",\"value\":");
                push_number(out, 10 + product % 700);
                out.extend_from_slice(b".5");
            }
            "search" => {
                out.extend_from_slice(b"\"query\":\"");
                out.extend_from_slice(SEARCHES[(bits >> 28) as usize % SEARCHES.len()].as_bytes());
                out.push(b'"');
            }
            _ => {}
        }
        let closed = out.len() + b",\"context\":\"\"}}".len();
        if let Some(mut missing) = bytes_min.checked_sub(closed).filter(|&missing| missing > 0) {
            if out.len() > empty {
                out.push(b',');
            }
            out.extend_from_slice(b"\"context\":\"");
            while missing > 0 {
                let start = (bits >> 33) as usize & 0x7fff;
                let part = missing.min(self.padding.len() - start);
                out.extend_from_slice(&self.padding[start..start + part]);
                missing -= part;
            }
            out.push(b'"');
        }
        out.extend_from_slice(b"}}");
    }
}

fn field(out: &mut Vec<u8>, name: &str, json: &[u8]) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    out.extend_from_slice(json);
}

fn text_field(out: &mut Vec<u8>, name: &str, text: &str) {
    field(out, name, b"\"");
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

fn time_field(out: &mut Vec<u8>, name: &str, time_ms: i64, offset_minutes: Option<i16>) {
    field(out, name, b"\"");
    push_rfc3339_ms(out, time_ms, offset_minutes);
    out.push(b'"');
}
