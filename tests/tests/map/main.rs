//! `segd map` on logs of whole estates, its pages in headless Chromium.
//!
//! Screenshots are left in `target/map`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod browser;
mod estate;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use browser::Browser;
use segd_tests::{segd, skip};
use serde_json::Value;
use tempfile::TempDir;

fn map(arguments: &[&str], logs: &[PathBuf]) -> Output {
    let mut command = Command::new(segd().unwrap());
    command.arg("map").args(arguments).args(["--config", "/dev/null"]);
    command.arg("--input").args(logs).output().unwrap()
}

fn written(arguments: &[&str], logs: &[PathBuf]) -> String {
    let output = map(arguments, logs);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(arguments: &[&str], logs: &[PathBuf]) -> Value {
    serde_json::from_str(&written(&[&["--format", "json"], arguments].concat(), logs)).unwrap()
}

/// The edges of a map as JSON, each on a line.
fn edges(map: &Value) -> Vec<String> {
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let line = |edge: &Value| {
        let change = edge.get("change").map_or(String::new(), |change| format!(" {}", word(change)));
        let [from, to, service, verdict, flows] =
            ["from", "to", "service", "verdict", "flows"].map(|k| word(&edge[k]));
        format!("{from}>{to} {service} {verdict} {flows}{change}")
    };
    map["edges"].as_array().unwrap().iter().map(line).collect()
}

/// A page, and where pictures of it go.
struct Page {
    _dir: TempDir,
    file: PathBuf,
    shots: PathBuf,
}

fn page(arguments: &[&str], make: fn(&Path) -> Vec<PathBuf>) -> Page {
    let dir = tempfile::tempdir().unwrap();
    let logs = make(dir.path());
    let file = dir.path().join("map.html");
    written(&[&["-o", file.to_str().unwrap()], arguments].concat(), &logs);
    let shots = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/map");
    fs::create_dir_all(&shots).unwrap();
    Page { _dir: dir, file, shots }
}

/// Nothing but the page itself was asked for, and nothing complained.
fn quiet(browser: &Browser) {
    assert!(browser.requests.iter().all(|url| url.starts_with("file://")), "{:?}", browser.requests);
    assert_eq!(browser.requests.len(), 1, "{:?}", browser.requests);
    assert!(browser.complaints.is_empty(), "{:#?}", browser.complaints);
}

fn browser() -> Option<Browser> {
    if !Path::new(browser::PROGRAM).exists() {
        skip("chromium is not installed: cargo xtask setup");
        return None;
    }
    Some(Browser::start())
}

fn demo_zones() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../zones/demo").to_owned()
}

/// How many texts and nodes of the picture overlap, as they are really drawn.
const OVERLAPS: &str = "(() => {
  const boxes = [...document.querySelectorAll('#view .service:not(.off) text, #view .node text')].map(e => e.getBoundingClientRect());
  let n = 0;
  boxes.forEach((a, i) => boxes.slice(i + 1).forEach(b => {
    if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 4 && b.top < a.bottom - 4) n += 1;
  }));
  return n;
})()";

/// How many names of nodes are wider than their boxes.
const OVERFLOWS: &str = "[...document.querySelectorAll('#view .node')].filter(g => \
  g.querySelector('text').getBBox().width > g.querySelector('rect').getBBox().width - 4).length";

#[test]
fn logs_of_all_hosts_make_one_map() {
    let dir = tempfile::tempdir().unwrap();
    let logs = estate::demo(dir.path());
    let map = json(&[], &logs);
    assert_eq!(
        edges(&map),
        [
            "fulfillment>fulfillment tcp/9100 audited 24",
            "fulfillment>orders postgres allowed 420",
            "fulfillment>transport freight-api allowed 60",
            "orders>fulfillment redis allowed 1300",
            "orders>transport freight-api allowed 96",
            "partner>orders postgres audited 6",
            "partner>orders tcp/22 denied 4",
            "partner>transport freight-api allowed 12",
        ]
    );
    assert_eq!(
        map["edges"][1]["bytes"],
        serde_json::json!({"to_server": 420 * 900, "to_client": 420 * 5200})
    );
    let one = json(&[], &logs[..1]);
    assert_eq!(edges(&one)[0], "partner>orders postgres audited 6", "one end's log is enough");
    let text = written(&["--format", "mermaid"], &logs);
    assert!(text.starts_with("flowchart LR\n  n0[\"fulfillment\"]"), "{text}");
    assert!(written(&["--format", "dot"], &logs).contains("\"partner\" -> \"orders\" [label=\"postgres 6\""));
}

#[test]
fn times_and_zone_files_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    let logs = estate::demo(dir.path());
    let by_time = json(&["--compare-until", "2026-11-22T12:00:00Z"], &logs);
    let changes: Vec<_> = edges(&by_time).into_iter().filter(|e| !e.ends_with(" removed")).collect();
    assert_eq!(changes, ["partner>orders tcp/22 denied 4 added"]);
    let by_files = json(&["--against", &demo_zones()], &logs);
    let changes: Vec<_> = edges(&by_files).into_iter().filter(|e| e.contains('{')).collect();
    // ssh to a host is a failsafe; at the client, which alone saw it, it is not.
    assert_eq!(changes, [r#"partner>orders tcp/22 denied 4 {"becomes":"audited"}"#]);
    let none = dir.path().join("none");
    fs::create_dir(&none).unwrap();
    let output = map(&["--against", none.to_str().unwrap(), "--format", "json"], &logs);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_page_is_not_printed_to_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let logs = estate::demo(dir.path());
    // script(1) gives it a terminal.
    let line = format!("{} map --config /dev/null --input {}", segd().unwrap().display(), logs[0].display());
    let output = Command::new("script").args(["-qec", &line, "/dev/null"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("segd map -o map.html"), "{said}");
}

#[test]
fn the_demo_estate_is_shown() {
    let Some(mut browser) = browser() else { return };
    let page = page(&[], estate::demo);
    browser.look(1440, 900, false);
    browser.open(&page.file, "");
    assert_eq!(browser.text("#status"), "4 of 4 zones, 8 of 8 edges");
    assert_eq!(browser.eval("document.querySelectorAll('#view .node').length"), 4);
    assert_eq!(browser.eval("document.querySelectorAll('tbody tr').length"), 8);
    assert_eq!((browser.eval(OVERLAPS), browser.eval(OVERFLOWS)), (0.into(), 0.into()));
    // All services have their names beside their lines.
    assert_eq!(browser.eval("document.querySelectorAll('#view .service').length"), 8);
    browser.screenshot(&page.shots.join("demo.png"));

    // Search, by whatever is known of an edge.
    for (query, kept) in
        [("psql", 1), ("freight orders", 1), ("10.77.4.1", 3), ("wms-1", 4), ("nothing like it", 0)]
    {
        browser.open(&page.file, &format!("#q={query}").replace(' ', "+"));
        assert!(
            browser.text("#status").ends_with(&format!(" {kept} of 8 edges")),
            "{query}: {}",
            browser.text("#status")
        );
        let lines = browser.eval("document.querySelectorAll('#view .strand:not(.off)').length");
        assert_eq!(lines, kept, "{query}");
    }
    for (fragment, want) in [
        ("#verdicts=denied", "2 of 4 zones, 1 of 8 edges"),
        ("#verdicts=audited,denied", "3 of 4 zones, 3 of 8 edges"),
        ("#zones=partner", "3 of 4 zones, 3 of 8 edges"),
        ("#zones=partner,fulfillment&verdicts=audited", "3 of 4 zones, 2 of 8 edges"),
    ] {
        browser.open(&page.file, fragment);
        assert_eq!(browser.text("#status"), want, "{fragment}");
    }
    quiet(&browser);
}

#[test]
fn a_person_can_point_click_and_type() {
    let Some(mut browser) = browser() else { return };
    let page = page(&[], estate::demo);
    browser.look(1440, 900, false);
    browser.open(&page.file, "");
    // Point at a line's name: processes, hosts and times.
    let at = browser.eval(
        "(() => { const r = [...document.querySelectorAll('.service')].find(e => e.textContent.trim() === 'redis')\
                           .getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()",
    );
    let (x, y) = (at[0].as_f64().unwrap(), at[1].as_f64().unwrap());
    browser.mouse("mouseMoved", x, y);
    let details = browser.text("#details");
    for part in [
        "orders → fulfillment",
        "redis",
        "1,300",
        "orders-1 (10.77.1.1) /usr/bin/node [node.service]",
        "/usr/bin/redis-server",
        "2026-11-22 08:00:00 UTC",
    ] {
        assert!(details.contains(part), "{part} is not in {details}");
    }
    browser.mouse("mouseMoved", 700.0, 5.0);
    assert!(browser.text("#details").contains("Point at"));
    browser.mouse("mousePressed", x, y);
    browser.mouse("mouseReleased", x, y);
    browser.mouse("mouseMoved", 700.0, 5.0);
    assert!(browser.text("#details").contains("orders → fulfillment"), "a click keeps it");
    assert_eq!(browser.eval("location.hash"), "#edge=orders%2Cfulfillment%2Callowed");
    browser.press("Escape");
    assert!(browser.text("#details").contains("Point at"));
    // The keyboard alone.
    browser.press("/");
    for key in ["s", "s", "h"] {
        browser.press(key);
    }
    assert_eq!(browser.text("#status"), "2 of 4 zones, 1 of 8 edges");
    browser.eval("document.querySelector('.node[data-node=\"2\"]').focus()");
    browser.press("Enter");
    assert!(browser.text("#details").starts_with("partner"), "{}", browser.text("#details"));
    assert_eq!(browser.eval("document.querySelectorAll('#details button').length"), 1);
    browser.eval("document.querySelector('#details button').focus()");
    browser.press("Enter");
    assert!(browser.text("#details").contains("partner → orders"));
    browser.eval("document.querySelector('#reset').click()");
    assert_eq!(browser.text("#status"), "4 of 4 zones, 8 of 8 edges");
    quiet(&browser);
}

#[test]
fn forty_zones_and_four_hundred_edges_are_readable() {
    let Some(mut browser) = browser() else { return };
    let page = page(&[], estate::large);
    browser.look(1680, 1050, false);
    browser.open(&page.file, "");
    assert_eq!(browser.text("#status"), "40 of 40 zones, 400 of 400 edges");
    assert_eq!((browser.eval(OVERLAPS), browser.eval(OVERFLOWS)), (0.into(), 0.into()));
    browser.screenshot(&page.shots.join("large.png"));
    browser.open(&page.file, "#zone=fulfillment");
    browser.screenshot(&page.shots.join("large-zone.png"));
    browser.open(&page.file, "#verdicts=denied");
    browser.screenshot(&page.shots.join("large-denied.png"));
    let lines = browser.eval("document.querySelectorAll('#view .strand:not(.off)').length").as_u64().unwrap();
    assert!((5..60).contains(&lines), "{lines}");
    browser.look(1680, 1050, true);
    browser.open(&page.file, "#zones=orders");
    browser.screenshot(&page.shots.join("large-dark.png"));
    quiet(&browser);
    browser.look(1680, 1050, false);
    browser.open(&page.file, "");
    browser.print(&page.shots.join("large.pdf"));
    quiet(&browser);
}

#[test]
fn differences_are_shown_by_more_than_colour() {
    let Some(mut browser) = browser() else { return };
    let dir = tempfile::tempdir().unwrap();
    let zones = dir.path().join("zones");
    fs::create_dir(&zones).unwrap();
    for name in ["10-zones.toml", "20-rules.toml"] {
        let text = fs::read_to_string(Path::new(&demo_zones()).join(name)).unwrap();
        // Without the partner's rule, and enforced.
        let text =
            text.replace("from = \"partner\"\nto = \"transport\"", "from = \"orders\"\nto = \"orders\"");
        fs::write(zones.join(name), text).unwrap();
    }
    fs::write(zones.join("30.toml"), "[[rollout]]\nmode = \"enforce\"\n").unwrap();
    let against = page(&["--against", zones.to_str().unwrap()], estate::demo);
    browser.look(1440, 900, false);
    browser.open(&against.file, "");
    browser.screenshot(&against.shots.join("against.png"));
    assert_eq!(browser.eval("document.querySelectorAll('#view .sign.becomes-denied').length"), 3);
    browser.open(&against.file, "#changes=becomes-denied");
    assert_eq!(browser.text("#status"), "4 of 4 zones, 3 of 8 edges");
    let text = browser.text("tbody");
    assert_eq!(text.matches("✕ would be denied").count(), 3, "{text}");
    let before = page(&["--compare-until", "2026-11-22T09:00:00Z"], estate::demo);
    browser.open(&before.file, "");
    browser.screenshot(&before.shots.join("compared.png"));
    quiet(&browser);
}

#[test]
fn hostile_names_do_nothing() {
    let Some(mut browser) = browser() else { return };
    let page = page(&[], estate::hostile);
    browser.look(1200, 800, false);
    browser.open(&page.file, "#zone=</script><script>boom()</script>&q=boom");
    assert_eq!(browser.text("#status"), "3 of 3 zones, 3 of 3 edges");
    assert_eq!(browser.eval("document.querySelectorAll('img, iframe, #view script').length"), 0);
    assert_eq!(browser.eval("document.querySelectorAll('script').length"), 2);
    assert!(browser.text("#details").starts_with("</script><script>boom()</script>"));
    browser.screenshot(&page.shots.join("hostile.png"));
    quiet(&browser);
}

#[test]
fn the_picture_needs_no_page() {
    let Some(mut browser) = browser() else { return };
    let dir = tempfile::tempdir().unwrap();
    for (name, make) in [("demo", estate::demo as fn(&Path) -> _), ("large", estate::large)] {
        let logs = make(dir.path());
        let file = dir.path().join(format!("{name}.svg"));
        written(&["-o", file.to_str().unwrap()], &logs);
        browser.look(1800, 1200, false);
        browser.open_picture(&file);
        assert_eq!(browser.eval("document.querySelectorAll('parsererror').length"), 0);
        let nodes = browser.eval("document.querySelectorAll('.node').length");
        assert_eq!(nodes, if name == "demo" { 4 } else { 40 });
        let shots = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/map");
        fs::create_dir_all(&shots).unwrap();
        browser.screenshot(&shots.join(format!("{name}-svg.png")));
        quiet(&browser);
    }
}
