//! Figures as CSV: written once they are measured, and read to draw them.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};

use crate::sample::Spread;

/// One line: names, and figures by column.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) names: HashMap<String, String>,
    pub(crate) figures: HashMap<String, Spread>,
}

impl Row {
    pub(crate) fn name(&self, column: &str) -> &str {
        self.names.get(column).map_or("", String::as_str)
    }

    pub(crate) fn figure(&self, column: &str) -> Option<Spread> {
        self.figures.get(column).copied()
    }
}

const LEAST: &str = " least";
const MOST: &str = " most";

/// Writes rows that have these columns of names and of figures; each figure has three.
pub(crate) fn write(path: &Path, names: &[&str], figures: &[&str], rows: &[Row]) -> Result<()> {
    let mut file =
        csv::Writer::from_path(path).with_context(|| format!("writing {}", path.display()))?;
    let columns = figures
        .iter()
        .flat_map(|f| [String::new(), LEAST.into(), MOST.into()].map(|s| format!("{f}{s}")));
    file.write_record(names.iter().map(|name| (*name).to_owned()).chain(columns))?;
    for row in rows {
        let figures = figures.iter().flat_map(|column| match row.figure(column) {
            Some(of) => [of.median, of.least, of.most].map(|figure| format!("{figure:.4}")),
            None => [const { String::new() }; 3],
        });
        file.write_record(names.iter().map(|name| row.name(name).to_owned()).chain(figures))?;
    }
    Ok(file.flush()?)
}

/// Reads what [`write`] has written.
pub(crate) fn read(path: &Path) -> Result<Vec<Row>> {
    let mut file =
        csv::Reader::from_path(path).with_context(|| format!("reading {}", path.display()))?;
    let columns = file.headers()?.clone();
    let is_figure = |column: &str| columns.iter().any(|other| other == format!("{column}{LEAST}"));
    let mut rows = Vec::new();
    for record in file.records() {
        let record = record?;
        let cells: HashMap<&str, &str> = columns.iter().zip(record.iter()).collect();
        let mut row = Row::default();
        for column in columns.iter().filter(|c| !c.ends_with(LEAST) && !c.ends_with(MOST)) {
            if !is_figure(column) {
                row.names.insert(column.to_owned(), cells[column].to_owned());
                continue;
            }
            let cell = |suffix: &str| cells[format!("{column}{suffix}").as_str()].parse::<f64>();
            if let (Ok(median), Ok(least), Ok(most)) = (cell(""), cell(LEAST), cell(MOST)) {
                row.figures.insert(column.to_owned(), Spread { median, least, most });
            }
        }
        rows.push(row);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("figures.csv");
        let spread = Spread { median: 2.0, least: 1.0, most: 3.5 };
        let row = Row {
            names: [("system".to_owned(), "a, b".to_owned())].into(),
            figures: [("p50".to_owned(), spread)].into(),
        };
        write(&path, &["system"], &["p50", "p99"], &[row]).unwrap();
        let rows = read(&path).unwrap();
        assert_eq!((rows.len(), rows[0].name("system")), (1, "a, b"));
        assert_eq!((rows[0].figure("p50"), rows[0].figure("p99")), (Some(spread), None));
    }
}
