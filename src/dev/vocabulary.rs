//! The words of generated events, with their weights.
//!
//! In: nothing. Out: constants, from which [`EventWriter`](super::event::EventWriter) draws. Pure.

/// A country: its code, a locale, a time zone, that zone's offset from UTC in minutes (without daylight saving), its weight.
pub(super) struct Country {
    pub(super) code: &'static str,
    pub(super) locale: &'static str,
    pub(super) zone: &'static str,
    pub(super) offset_minutes: i16,
    pub(super) weight: u16,
}

const fn country(
    code: &'static str,
    locale: &'static str,
    zone: &'static str,
    offset_minutes: i16,
    weight: u16,
) -> Country {
    Country { code, locale, zone, offset_minutes, weight }
}

/// Forty countries, most visited first.
pub(super) const COUNTRIES: [Country; 40] = [
    country("US", "en-US", "America/New_York", -300, 2600),
    country("DE", "de-DE", "Europe/Berlin", 60, 1300),
    country("GB", "en-GB", "Europe/London", 0, 1000),
    country("FR", "fr-FR", "Europe/Paris", 60, 700),
    country("CA", "en-CA", "America/Toronto", -300, 450),
    country("NL", "nl-NL", "Europe/Amsterdam", 60, 380),
    country("IT", "it-IT", "Europe/Rome", 60, 340),
    country("ES", "es-ES", "Europe/Madrid", 60, 320),
    country("AT", "de-AT", "Europe/Vienna", 60, 270),
    country("CH", "de-CH", "Europe/Zurich", 60, 260),
    country("PL", "pl-PL", "Europe/Warsaw", 60, 230),
    country("AU", "en-AU", "Australia/Sydney", 600, 210),
    country("BR", "pt-BR", "America/Sao_Paulo", -180, 200),
    country("JP", "ja-JP", "Asia/Tokyo", 540, 190),
    country("SE", "sv-SE", "Europe/Stockholm", 60, 160),
    country("BE", "nl-BE", "Europe/Brussels", 60, 150),
    country("IN", "en-IN", "Asia/Kolkata", 330, 140),
    country("DK", "da-DK", "Europe/Copenhagen", 60, 120),
    country("MX", "es-MX", "America/Mexico_City", -360, 110),
    country("NO", "nb-NO", "Europe/Oslo", 60, 100),
    country("IE", "en-IE", "Europe/Dublin", 0, 90),
    country("FI", "fi-FI", "Europe/Helsinki", 120, 80),
    country("PT", "pt-PT", "Europe/Lisbon", 0, 75),
    country("CZ", "cs-CZ", "Europe/Prague", 60, 70),
    country("TR", "tr-TR", "Europe/Istanbul", 180, 60),
    country("GR", "el-GR", "Europe/Athens", 120, 50),
    country("HU", "hu-HU", "Europe/Budapest", 60, 45),
    country("RO", "ro-RO", "Europe/Bucharest", 120, 40),
    country("KR", "ko-KR", "Asia/Seoul", 540, 40),
    country("NZ", "en-NZ", "Pacific/Auckland", 720, 35),
    country("SG", "en-SG", "Asia/Singapore", 480, 30),
    country("AR", "es-AR", "America/Argentina/Buenos_Aires", -180, 28),
    country("IL", "he-IL", "Asia/Jerusalem", 120, 25),
    country("ZA", "en-ZA", "Africa/Johannesburg", 120, 22),
    country("AE", "ar-AE", "Asia/Dubai", 240, 20),
    country("CL", "es-CL", "America/Santiago", -240, 15),
    country("HK", "zh-HK", "Asia/Hong_Kong", 480, 12),
    country("NP", "ne-NP", "Asia/Kathmandu", 345, 6),
    country("IS", "is-IS", "Atlantic/Reykjavik", 0, 4),
    country("MT", "mt-MT", "Europe/Malta", 60, 2),
];

/// What visitors do, with weights.
pub(super) const ACTIONS: [(&str, u16); 14] = [
    ("page_view", 5500),
    ("product_view", 2000),
    ("search", 800),
    ("add_to_cart", 600),
    ("checkout", 250),
    ("purchase", 200),
    ("category_view", 180),
    ("remove_from_cart", 120),
    ("login", 110),
    ("add_to_wishlist", 90),
    ("video_play", 70),
    ("newsletter_signup", 40),
    ("form_error", 30),
    ("chat_open", 10),
];

/// A device: browser, operating system, type, user agent, weight.
pub(super) struct Device {
    pub(super) browser: &'static str,
    pub(super) os: &'static str,
    pub(super) kind: &'static str,
    pub(super) agent: &'static str,
    pub(super) weight: u16,
}

const fn device(
    browser: &'static str,
    os: &'static str,
    kind: &'static str,
    agent: &'static str,
    weight: u16,
) -> Device {
    Device { browser, os, kind, agent, weight }
}

/// Devices. Their user agents are short, so that events have about 500 bytes.
pub(super) const DEVICES: [Device; 10] = [
    device("Chrome", "Android", "mobile", "Mozilla/5.0 (Linux; Android 14) Chrome/131.0 Mobile", 300),
    device("Safari", "iOS", "mobile", "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1) Safari/604.1", 240),
    device("Chrome", "Windows", "desktop", "Mozilla/5.0 (Windows NT 10.0; Win64) Chrome/131.0", 200),
    device("Safari", "macOS", "desktop", "Mozilla/5.0 (Macintosh; Mac OS X 14_7) Safari/605.1", 80),
    device("Edge", "Windows", "desktop", "Mozilla/5.0 (Windows NT 10.0; Win64) Edg/131.0", 60),
    device("Firefox", "Windows", "desktop", "Mozilla/5.0 (Windows NT 10.0; rv:132.0) Firefox/132.0", 40),
    device("Safari", "iPadOS", "tablet", "Mozilla/5.0 (iPad; CPU OS 17_6) Safari/604.1", 35),
    device("Samsung Internet", "Android", "mobile", "Mozilla/5.0 (Linux; Android 13) SamsungBrowser/27.0", 30),
    device("Firefox", "Linux", "desktop", "Mozilla/5.0 (X11; Linux x86_64) Firefox/132.0", 10),
    device("Chrome", "ChromeOS", "desktop", "Mozilla/5.0 (X11; CrOS x86_64) Chrome/130.0", 5),
];

/// Where visitors come from, in JSON escaped form; '' means no referrer.
pub(super) const REFERRERS: [&str; 12] = [
    "",
    "",
    "",
    "https://www.google.com/",
    "https://www.google.com/",
    "https://www.bing.com/",
    "https://duckduckgo.com/",
    "https://l.instagram.com/",
    "https://www.facebook.com/",
    "https://t.co/x1",
    "https://news.example/a?b=1&c=2",
    "https://www.example.org/gift-guide/",
];

/// Paths of pages that are not product pages.
pub(super) const PATHS: [&str; 12] = [
    "/",
    "/",
    "/sale",
    "/about",
    "/c/shoes",
    "/c/shirts?page=2",
    "/c/kids",
    "/help/returns",
    "/blog/spring-2026",
    "/stores",
    "/gift-cards",
    "/c/caf%C3%A9",
];

/// What visitors search for, in JSON escaped form: with escapes and non-ASCII characters, as in reality.
pub(super) const SEARCHES: [&str; 10] = [
    "running shoes",
    "rain jacket",
    "size \\\"XL\\\" shirt",
    "crème brûlée torch",
    "stra\\u00dfe",
    "socks",
    "back\\\\slash",
    "リュック",
    "caf\\u00e9 \\ud83d\\ude00",
    "jeans 32/34",
];

/// Words from which padding is cut.
pub(super) const WORDS: [&str; 32] = [
    "banner",
    "hero",
    "carousel",
    "summer",
    "variant",
    "blue",
    "green",
    "large",
    "medium",
    "list",
    "grid",
    "teaser",
    "footer",
    "header",
    "campaign",
    "mail",
    "affiliate",
    "bundle",
    "voucher",
    "cotton",
    "linen",
    "wool",
    "leather",
    "outlet",
    "premium",
    "basic",
    "left",
    "right",
    "scroll",
    "hover",
    "click",
    "focus",
];
