//! Tables of results: printed, and put between their marks in docs/BENCHMARKS.md. Measures nothing.

use std::fmt::Write as _;
use std::fs;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/BENCHMARKS.md");

/// Stands between `<!-- name -->` and `<!-- /name -->`.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) head: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    fn text(&self) -> String {
        let mut text = String::new();
        let line = |text: &mut String, cells: &[String]| {
            writeln!(text, "| {} |", cells.join(" | ")).expect("a text takes all");
        };
        line(&mut text, &self.head.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>());
        line(&mut text, &vec!["---".to_owned(); self.head.len()]);
        for row in &self.rows {
            line(&mut text, row);
        }
        text
    }
}

/// Prints the tables, and writes them into the document.
pub(crate) fn publish(tables: &[Table], write: bool) {
    for table in tables {
        println!("\n{}\n\n{}", table.name, table.text());
        if write {
            let document = fs::read_to_string(DOCUMENT).expect("docs/BENCHMARKS.md");
            let (from, to) = (format!("<!-- {} -->\n", table.name), format!("<!-- /{} -->", table.name));
            let start = document.find(&from).expect("the table's mark") + from.len();
            let end = document.find(&to).expect("the end of the table");
            let document = format!("{}{}{}", &document[..start], table.text(), &document[end..]);
            fs::write(DOCUMENT, document).expect("written");
        }
    }
}

/// The median, and the range if there are several.
pub(crate) fn spread(values: &[f64], digits: usize) -> String {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let (Some(first), Some(last)) = (values.first(), values.last()) else { return "–".to_owned() };
    let middle = values[values.len() / 2];
    if values.len() == 1 {
        format!("{middle:.digits$}")
    } else {
        format!("{middle:.digits$} ({first:.digits$}–{last:.digits$})")
    }
}
