//! The map as one page: picture, filters, details and table. It asks nothing of any network, and says so to the browser.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use data_encoding::BASE64;
use segd_common::traffic::Verdict;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::svg::{self, escaped};
use crate::insight::map::model::{Change, Map};
use crate::insight::map::picture::{Drawn, picture, sign, told, word};
use crate::insight::map::strands::Strand;
use crate::telemetry::named;

const SCRIPT: &str = include_str!("../page/map.js");
const STYLE: &str = include_str!("../page/page.css");

/// What the script works on.
#[derive(Serialize)]
struct Data<'a> {
    map: &'a Map,
    strands: Vec<Line>,
}

/// A line of the picture: indices of nodes and edges.
#[derive(Serialize)]
struct Line {
    from: usize,
    to: usize,
    #[serde(with = "named")]
    verdict: Verdict,
    /// Class of its change.
    word: &'static str,
    sign: &'static str,
    told: String,
    edges: Vec<usize>,
}

/// One document that needs nothing beside it.
///
/// # Errors
/// Never for a map of [`Map::of`]; that it can be written is serde's to say.
pub fn html(map: &Map) -> Result<String, serde_json::Error> {
    let picture = picture(map);
    let line = |drawn: &'_ Drawn| {
        let Strand { from, to, verdict, change, ref edges, .. } = drawn.strand;
        let told = change.map(told).unwrap_or_default();
        Line {
            from,
            to,
            verdict,
            word: word(change),
            sign: change.map_or("", sign),
            told,
            edges: edges.clone(),
        }
    };
    let strands = picture.strands.iter().map(line).collect();
    let data = in_script(&serde_json::to_string(&Data { map, strands })?);
    let style = format!("{}{STYLE}", svg::STYLE);
    let (title, subtitle) = (escaped(&svg::title(map)), escaped(&svg::subtitle(map)));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
        digest(SCRIPT),
        digest(&style)
    );
    let (width, height) = (picture.width.max(300.0), picture.height.max(120.0));
    let compared = if map.compared.is_some() { " compared" } else { "" };
    let drawing = svg::drawing(map, &picture);
    let filters = filters(map);
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"referrer\" content=\"no-referrer\">\n<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n\
         <a class=\"skip\" href=\"#list\">To the table of edges</a>\n\
         <header><h1>{title}</h1><p>{subtitle}</p></header>\n\
         <form class=\"scripted\" hidden>{filters}<p id=\"status\" role=\"status\"></p></form>\n\
         <noscript><p class=\"hint\">Without JavaScript this is a picture only.</p></noscript>\n\
         <main>\n<div class=\"stage\"><div id=\"view\">\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" class=\"map{compared}\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.1} {height:.1}\" data-width=\"{width:.1}\" data-height=\"{height:.1}\" role=\"group\" \
         aria-label=\"{title}\">\n<rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n{drawing}</svg>\n</div>\n\
         <div class=\"zoom scripted\" hidden><button type=\"button\" id=\"smaller\" aria-label=\"Smaller\">−</button>\
         <button type=\"button\" id=\"bigger\" aria-label=\"Bigger\">+</button>\
         <button type=\"button\" id=\"fit\">Fit</button></div></div>\n\
         <aside id=\"details\" aria-live=\"polite\"></aside>\n</main>\n\
         <section class=\"list scripted\" id=\"list\" hidden><h2>Edges</h2><table><thead><tr></tr></thead><tbody></tbody>\
         </table></section>\n\
         <script type=\"application/json\" id=\"data\">{data}</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    ))
}

/// Search, verdicts, changes if there are any, zones.
fn filters(map: &Map) -> String {
    let mut out = String::from(
        "<label>Search <input type=\"search\" id=\"q\" autocomplete=\"off\" \
         placeholder=\"zone, service, process, host …\"></label>\
         <fieldset><legend>Verdict</legend>",
    );
    for verdict in [Verdict::Allowed, Verdict::Audited, Verdict::Denied] {
        let _ = write!(
            out,
            "<label><input type=\"checkbox\" name=\"verdicts\" value=\"{verdict}\" checked>\
             <svg class=\"map\" width=\"30\" height=\"10\" aria-hidden=\"true\"><g class=\"strand {verdict}\">\
             <path class=\"line\" stroke-width=\"3\" d=\"M0 5H30\"/></g></svg>{verdict}</label>"
        );
    }
    out.push_str("</fieldset>");
    if map.compared.is_some() {
        out.push_str("<fieldset><legend>Only</legend>");
        let all: BTreeSet<(&str, Option<Change>)> =
            map.edges.iter().map(|edge| (word(edge.change), edge.change)).collect();
        let mut former = "";
        for (word, change) in all {
            if word == former {
                continue;
            }
            former = word;
            let said = match change {
                None => "unchanged".to_owned(),
                Some(Change::Was(_)) => "≠ other verdict".to_owned(),
                Some(change) => format!("{} {}", sign(change), told(change)),
            };
            let _ = write!(
                out,
                "<label><input type=\"checkbox\" name=\"changes\" value=\"{word}\">{}</label>",
                escaped(&said)
            );
        }
        out.push_str("</fieldset>");
    }
    out.push_str(
        "<details class=\"zones\"><summary>Zones: <span id=\"zones-chosen\">all</span></summary><div>",
    );
    for node in &map.nodes {
        let name = escaped(&node.name);
        let _ = write!(out, "<label><input type=\"checkbox\" name=\"zones\" value=\"{name}\">{name}</label>");
    }
    out.push_str("</div></details><button type=\"button\" id=\"reset\">Reset</button>");
    out
}

/// JSON that no HTML parser takes for the end of its element or for a comment.
fn in_script(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// As a Content Security Policy names what it lets run.
fn digest(text: &str) -> String {
    BASE64.encode(&Sha256::digest(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_data_ends_its_element() {
        assert_eq!(in_script("\"</script><!--&\""), "\"\\u003c/script\\u003e\\u003c!--\\u0026\"");
    }

    #[test]
    fn what_is_embedded_does_not_end_its_element() {
        assert!(!SCRIPT.contains("</") && !STYLE.contains("</") && !svg::STYLE.contains("</"));
        assert_eq!(digest(""), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }
}
