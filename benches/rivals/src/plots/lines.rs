//! How a figure grows with another: a line for each system, named at its end.

use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::style::{FAINT, GRID, INK, LogAxis, Tone, drawn, number, text};

pub(crate) struct Line {
    pub(crate) label: String,
    pub(crate) tone: Tone,
    pub(crate) points: Vec<(f64, f64)>,
}

pub(crate) struct Lines<'a> {
    pub(crate) title: &'a str,
    pub(crate) subtitle: &'a str,
    pub(crate) x_axis: &'a str,
    pub(crate) y_axis: &'a str,
    /// Whether sizes along x are in KiB and MiB.
    pub(crate) binary: bool,
    pub(crate) lines: Vec<Line>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

const WIDTH: i32 = 860;
const HEIGHT: i32 = 560;
const TOP: i32 = 92;
const BOTTOM: i32 = 56;
const LEFT: i32 = 70;
const RIGHT: i32 = 160;
/// Between the names at the ends of lines.
const NAME: i32 = 15;

impl Lines<'_> {
    pub(crate) fn draw(&self, path: &Path) -> Result<()> {
        let area = SVGBackend::new(path, (WIDTH.unsigned_abs(), HEIGHT.unsigned_abs()));
        let area = area.into_drawing_area();
        drawn(area.fill(&WHITE))?;
        let points = || self.lines.iter().flat_map(|line| line.points.iter());
        let x = LogAxis::around(points().map(|point| point.0), LEFT, WIDTH - RIGHT);
        let y = LogAxis::around(points().map(|point| point.1), HEIGHT - BOTTOM, TOP);

        drawn(area.draw_text(self.title, &text(20, INK, HPos::Left, VPos::Top), (16, 14)))?;
        let below = format!("{}; both axes are logarithmic", self.subtitle);
        drawn(area.draw_text(&below, &text(14, FAINT, HPos::Left, VPos::Top), (16, 42)))?;
        self.grid(&area, x, y)?;
        let style = text(12, FAINT, HPos::Left, VPos::Bottom);
        drawn(area.draw_text(self.y_axis, &style, (16, TOP - 8)))?;
        let style = text(12, FAINT, HPos::Center, VPos::Bottom);
        drawn(area.draw_text(self.x_axis, &style, ((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8)))?;
        for line in &self.lines {
            Self::line(&area, line, x, y)?;
        }
        self.names(&area, x, y)?;
        drawn(area.present())
    }

    fn grid(&self, area: &Area<'_>, x: LogAxis, y: LogAxis) -> Result<()> {
        for tick in y.ticks() {
            let at = y.at(tick);
            drawn(area.draw(&PathElement::new([(LEFT, at), (WIDTH - RIGHT, at)], GRID)))?;
            let style = text(12, FAINT, HPos::Right, VPos::Center);
            drawn(area.draw_text(&number(tick), &style, (LEFT - 8, at)))?;
        }
        // Figures lie at few places along x, so those are the ticks.
        let mut places: Vec<f64> =
            self.lines.iter().flat_map(|line| line.points.iter().map(|point| point.0)).collect();
        places.sort_by(f64::total_cmp);
        places.dedup();
        let mut free = 0;
        for place in places {
            let at = x.at(place);
            drawn(area.draw(&PathElement::new([(at, TOP), (at, HEIGHT - BOTTOM)], GRID)))?;
            if at < free {
                continue;
            }
            let style = text(12, FAINT, HPos::Center, VPos::Top);
            let word = if self.binary { size(place) } else { number(place) };
            drawn(area.draw_text(&word, &style, (at, HEIGHT - BOTTOM + 6)))?;
            free = at + 44;
        }
        Ok(())
    }

    fn line(area: &Area<'_>, line: &Line, x: LogAxis, y: LogAxis) -> Result<()> {
        let colour = line.tone.colour();
        let points: Vec<_> = line.points.iter().map(|p| (x.at(p.0), y.at(p.1))).collect();
        let width = if line.tone == Tone::Ours { 3 } else { 1 };
        for point in &points {
            drawn(area.draw(&Circle::new(*point, width + 2, colour.filled())))?;
        }
        drawn(area.draw(&PathElement::new(points, colour.stroke_width(width))))
    }

    /// At the ends of the lines, moved apart where they would cover each other.
    fn names(&self, area: &Area<'_>, x: LogAxis, y: LogAxis) -> Result<()> {
        let mut ends: Vec<_> = self
            .lines
            .iter()
            .filter_map(|line| line.points.last().map(|p| ((x.at(p.0), y.at(p.1)), line)))
            .collect();
        ends.sort_by_key(|((_, y), _)| *y);
        let mut at = TOP;
        let mut places = Vec::new();
        for ((_, y), _) in &ends {
            at = at.max(*y);
            places.push(at);
            at += NAME;
        }
        // Those that were pushed beyond the bottom push back.
        let mut limit = HEIGHT - BOTTOM;
        for place in places.iter_mut().rev() {
            *place = (*place).min(limit);
            limit = *place - NAME;
        }
        for ((end, line), place) in ends.into_iter().zip(places) {
            let colour = line.tone.colour();
            let lead = [(end.0 + 6, end.1), (WIDTH - RIGHT + 12, place)];
            drawn(area.draw(&PathElement::new(lead, colour.mix(0.4))))?;
            let style = text(13, colour, HPos::Left, VPos::Center);
            drawn(area.draw_text(&line.label, &style, (WIDTH - RIGHT + 16, place)))?;
        }
        Ok(())
    }
}

fn size(bytes: f64) -> String {
    match bytes {
        b if b >= 1_048_576.0 => format!("{} MiB", b / 1_048_576.0),
        b if b >= 1024.0 => format!("{} KiB", b / 1024.0),
        b => format!("{b} B"),
    }
}
