//! The page itself: the model as JSON inside of one HTML file, with the script that draws it.
//!
//! Owns: how the parts are put together. Promises: nothing in the data can end the script that holds it.
//! Leaves out: what is drawn how: `page/page.js`. Called by `runner::timeline`.

use super::model::Model;

const FRAME: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPTS: [&str; 3] =
    [include_str!("page/data.js"), include_str!("page/draw.js"), include_str!("page/page.js")];

/// The whole page.
#[must_use]
pub fn html(model: &Model) -> String {
    let json = serde_json::to_string(model).expect("plain data has a JSON form");
    // `<` stands only in strings of JSON, where its escape means the same.
    let json = json.replace('<', "\\u003c");
    let mut page = String::with_capacity(json.len() + 64 * 1024);
    for piece in FRAME.split_inclusive("%%") {
        match piece {
            "STYLE%%" => page += STYLE,
            "DATA%%" => page += &json,
            "SCRIPT%%" => page += &SCRIPTS.join("\n"),
            other => page += other.strip_suffix("%%").unwrap_or(other),
        }
    }
    page
}
