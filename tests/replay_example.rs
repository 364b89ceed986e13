//! A wrong field in the job file, its correction, and a recount of the past: with the binary and an embedded broker, as in
//! src/replay/README.md.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use rdkafka::mocking::MockCluster;
use serde_json::Value;

const FIELD: &str = "pointer = \"/userInfo/country\"";
const WRONG_FIELD: &str = "pointer = \"/userinfo/country\"";
const RANGE: [&str; 4] = ["--from", "2026-01-13", "--to", "2026-01-15"];

/// A folder with a job file, and the broker that it reads from.
struct World {
    folder: tempfile::TempDir,
    brokers: String,
}

impl World {
    fn job(&self, from: &str, to: &str) {
        let text =
            fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/jobs/web-analytics.toml")).expect("the job file");
        assert_eq!(text.matches(from).count(), 1, "{from}");
        fs::write(self.folder.path().join("job.toml"), text.replace(from, to)).expect("written");
    }

    fn floodmark(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_floodmark"));
        command.args(arguments).current_dir(self.folder.path());
        command.env_clear().env("KAFKA_BOOTSTRAP", &self.brokers).output().expect("the binary runs")
    }

    /// What the command prints on stdout, if it ends with this exit code.
    fn ends(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.floodmark(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn refused(&self, code: i32, arguments: &[&str], says: &str) {
        let output = self.floodmark(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(says) && output.stdout.is_empty(), "{arguments:?}: {said}");
    }

    fn json(&self, code: i32, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ends(code, &[arguments, &["--output", "json"]].concat())).expect("JSON on stdout")
    }

    /// Every replay, with its state.
    fn standings(&self) -> Vec<(String, String)> {
        let listed = self.json(0, &["replay", "list", "--job", "job.toml"]);
        let of = |replay: &Value| {
            (replay["submission"]["id"].as_str().expect("an id").to_owned(), replay["standing"].to_string())
        };
        listed.as_array().expect("a list").iter().map(of).collect()
    }

    fn is_exact(&self) {
        let verdict = self.ends(0, &["verify", "job.toml"]);
        assert!(verdict.starts_with("exact: "), "{verdict}");
    }
}

fn run<'a>(id: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["replay", "run", "job.toml", "--id", id], &RANGE[..], more].concat()
}

#[test]
fn a_wrong_field_its_fix_and_the_past_recounted() {
    let broker = MockCluster::new(1).expect("an embedded broker");
    broker.create_topic("web-analytics", 4, 1).expect("a topic");
    let world = World { folder: tempfile::tempdir().expect("a folder"), brokers: broker.bootstrap_servers() };
    let traffic =
        ["--from", "2026-01-13", "--hours", "48", "--events", "5000", "--late-share", "0.05", "--broken-share", "0.01"];
    let to = ["dev", "gen", "--brokers", &world.brokers, "--topic", "web-analytics"];
    world.ends(0, &[&to[..], &traffic].concat());
    world.job(FIELD, WRONG_FIELD);
    let plan = [&["replay", "plan", "job.toml"], &RANGE[..]].concat();
    for command in [&plan, &run("fix", &[]), &vec!["verify", "job.toml"], &vec!["status", "job.toml"]] {
        world.refused(78, command, "floodmark run JOB");
    }
    assert!(!world.folder.path().join("tables").exists(), "who only looks makes no folder");
    world.ends(0, &["run", "job.toml", "--drain"]);

    // Before live counts with the correction there are only previews, and a request to publish is not submitted.
    world.job(FIELD, FIELD);
    assert_eq!(world.json(0, &plan)["can_be_published"], false);
    world.refused(1, &run("fix", &["--publish"]), "Restart the job with this file first");
    assert_eq!(world.standings(), []);
    world.ends(0, &run("preview", &[]));
    world.refused(1, &["replay", "publish", "preview", "--job", "job.toml"], "is a preview");

    world.ends(0, &["run", "job.toml", "--drain"]);
    assert_eq!(world.json(0, &plan)["can_be_published"], true);
    // The same id again is the same replay: found before it is published, and after.
    let found = world.json(3, &run("fix", &["--detailed-exitcode"]));
    let cells: Vec<i64> = ["added", "changed", "removed"]
        .map(|what| found["summary"]["cells"][what].as_i64().expect("a number"))
        .to_vec();
    assert!(cells.iter().all(|cells| *cells > 0), "{cells:?}");
    assert_eq!(world.json(3, &run("fix", &["--detailed-exitcode"]))["submission"], found["submission"]);
    // Only what depends on the field.
    let diff = world.json(0, &["replay", "diff", "fix", "--job", "job.toml"]);
    let groups = diff["groups"].as_array().expect("groups");
    assert!(!groups.is_empty() && groups.iter().all(|group| group["dimension"] == "country"), "{groups:?}");
    let rest = world.json(0, &["replay", "diff", "fix", "--job", "job.toml", "--dimension", "total"]);
    assert_eq!(rest["groups"], serde_json::json!([]));
    world.is_exact();
    for (top, lines) in [(&[][..], 10), (&["--top", "3"], 3), (&["--top", "0"], 0)] {
        let of = |command: Vec<&str>| {
            let text = world.ends(0, &[&command[..], top].concat());
            text.split("\n\n").find(|table| table.starts_with("largest changes")).unwrap_or_default().to_owned()
        };
        let (largest, by_diff) = (of(run("fix", &[])), of(vec!["replay", "diff", "fix", "--job", "job.toml"]));
        assert_eq!((largest.lines().skip(1).count(), &largest), (lines, &by_diff), "{top:?}");
    }
    let some = world.ends(0, &run("some", &["--customers", "shop-00000"]));
    assert!(some.contains(" rows of raw in range (of all customers), "), "{some}");
    world.ends(0, &["replay", "discard", "some", "--job", "job.toml"]);

    let published = world.ends(0, &["replay", "publish", "fix", "--job", "job.toml"]);
    assert!(published.starts_with("replay fix is published: "), "{published}");
    world.is_exact();
    let again = world.ends(0, &["replay", "publish", "fix", "--job", "job.toml"]);
    assert!(again.contains("already"), "{again}");
    // The entry, which says which rows the replay covers, is lost and written again.
    let entry = world.folder.path().join("tables/web-analytics/replays/fix/entry.json");
    let written = fs::read(&entry).expect("an entry");
    fs::remove_file(&entry).expect("removed");
    world.refused(1, &["verify", "job.toml"], "replays/fix/entry.json is missing");
    world.refused(1, &["verify", "job.toml"], "floodmark replay publish fix");
    world.ends(0, &["replay", "publish", "fix", "--job", "job.toml"]);
    assert_eq!(fs::read(&entry).expect("an entry"), written);
    world.is_exact();
    world.ends(0, &run("second", &["--detailed-exitcode"]));
    world.refused(1, &["replay", "discard", "fix", "--job", "job.toml"], "floodmark replay undo fix");

    world.ends(0, &["replay", "undo", "fix", "--job", "job.toml"]);
    world.is_exact();
    let undone: Vec<_> = world.standings().into_iter().map(|(id, _)| id).collect();
    assert_eq!(undone, ["preview", "fix", "second"]);
    assert_eq!(world.standings()[1].1, "{\"undone\":2}");
    // The result of the first replay no longer applies: the cells are the old ones again. Exit code 3 means that differences were found,
    // also when they are published, or were before.
    for done in ["replay third is published: ", "replay third is already published "] {
        let said = world.ends(3, &run("third", &["--detailed-exitcode", "--publish"]));
        assert!(said.contains(done), "{said}");
    }
    world.is_exact();
    world.refused(1, &["replay", "publish", "fix", "--job", "job.toml"], "was compared before replay third");

    // Refused requests, and their exit codes.
    world.refused(1, &run("fix", &["--customers", "shop-00000"]), "choose another id");
    let cut = ["replay", "run", "job.toml", "--from", "2026-01-13T00:30", "--to", "2026-01-14"];
    world.refused(2, &cut, "--from 2026-01-13T00:00:00Z --to 2026-01-14T00:00:00Z");
    world.refused(1, &["replay", "undo", "nothing", "--job", "job.toml"], "floodmark replay list");
    world.refused(
        78,
        &["replay", "plan", "nothing.toml", "--from", "2026-01-13", "--to", "2026-01-14"],
        "nothing.toml",
    );
    for command in [&["run"][..], &["verify"], &["replay", "run", "--from", "2026-01-13", "--to", "2026-01-14"]] {
        let output = world.floodmark(&[command, &["nothing.toml"]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.matches("No such file").count()), (Some(78), 1), "{command:?}: {said}");
    }
    world.refused(2, &["replay", "plan", "job.toml", "--from", "yesterday", "--to", "2026-01-14"], "expected a date");
    for id in ["fix", "preview"] {
        world.ends(0, &["replay", "discard", id, "--job", "job.toml"]);
    }
    world.refused(1, &run("fix", &[]), "discarded");
    assert!(Path::new(&world.folder.path().join("tables/web-analytics/replays/fix/entry.json")).exists());

    world.job("event_time = { pointer = \"/dateTimeUtc\" }", "event_time = { pointer = \"/sentAt\" }");
    world.refused(1, &plan, "takes the event time from another place");
    world.job("customer = { pointer = \"/analyticsCustomerId\" }", "customer = { pointer = \"/sessionId\" }");
    world.refused(1, &[&plan[..], &["--customers", "shop-00000"]].concat(), "omit --customers");
}
