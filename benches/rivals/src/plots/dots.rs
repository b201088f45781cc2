//! One figure of many systems: a dot each, with the spread of the rounds.

use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::style::{FAINT, GRID, INK, LogAxis, Tone, drawn, number, text};
use crate::sample::Spread;

pub(crate) struct Dot {
    pub(crate) label: String,
    pub(crate) tone: Tone,
    pub(crate) spread: Spread,
}

pub(crate) struct Dots<'a> {
    pub(crate) title: &'a str,
    pub(crate) subtitle: &'a str,
    pub(crate) axis: &'a str,
    /// From top to bottom.
    pub(crate) dots: Vec<Dot>,
}

const WIDTH: i32 = 860;
const TOP: i32 = 84;
const BOTTOM: i32 = 48;
const ROW: i32 = 22;
const LEFT: i32 = 168;
const RIGHT: i32 = 84;

impl Dots<'_> {
    pub(crate) fn draw(&self, path: &Path) -> Result<()> {
        let height = TOP + BOTTOM + ROW * i32::try_from(self.dots.len())?;
        let size = (WIDTH.unsigned_abs(), height.unsigned_abs());
        let area = SVGBackend::new(path, size).into_drawing_area();
        drawn(area.fill(&WHITE))?;
        let figures = self.dots.iter().flat_map(|dot| [dot.spread.least, dot.spread.most]);
        let axis = LogAxis::around(figures, LEFT, WIDTH - RIGHT);

        drawn(area.draw_text(self.title, &text(20, INK, HPos::Left, VPos::Top), (16, 14)))?;
        drawn(area.draw_text(self.subtitle, &text(14, FAINT, HPos::Left, VPos::Top), (16, 42)))?;
        self.legend(&area)?;
        for tick in axis.ticks() {
            let (x, end) = (axis.at(tick), height - BOTTOM);
            drawn(area.draw(&PathElement::new([(x, TOP - 8), (x, end)], GRID)))?;
            let style = text(12, FAINT, HPos::Center, VPos::Top);
            drawn(area.draw_text(&number(tick), &style, (x, end + 6)))?;
        }
        let style = text(12, FAINT, HPos::Center, VPos::Bottom);
        drawn(area.draw_text(self.axis, &style, ((LEFT + WIDTH - RIGHT) / 2, height - 6)))?;
        for (row, dot) in (0..).zip(&self.dots) {
            Self::dot(&area, dot, axis, TOP + row * ROW + ROW / 2)?;
        }
        drawn(area.present())
    }

    fn legend<DB: DrawingBackend>(
        &self,
        area: &DrawingArea<DB, plotters::coord::Shift>,
    ) -> Result<()> {
        let mut x = WIDTH - 300;
        for tone in [Tone::Floor, Tone::Ours, Tone::Rival] {
            if !self.dots.iter().any(|dot| dot.tone == tone) {
                continue;
            }
            drawn(area.draw(&Circle::new((x, 50), 5, tone.colour().filled())))?;
            let style = text(13, INK, HPos::Left, VPos::Center);
            drawn(area.draw_text(tone.words(), &style, (x + 10, 50)))?;
            x += 30 + 7 * i32::try_from(tone.words().len())?;
        }
        Ok(())
    }

    fn dot<DB: DrawingBackend>(
        area: &DrawingArea<DB, plotters::coord::Shift>,
        dot: &Dot,
        axis: LogAxis,
        y: i32,
    ) -> Result<()> {
        let (colour, x) = (dot.tone.colour(), axis.at(dot.spread.median));
        let label = text(13, INK, HPos::Right, VPos::Center);
        drawn(area.draw_text(&dot.label, &label, (LEFT - 12, y)))?;
        drawn(area.draw(&PathElement::new([(LEFT, y), (x, y)], colour.mix(0.35))))?;
        let ends = [(axis.at(dot.spread.least), y), (axis.at(dot.spread.most), y)];
        drawn(area.draw(&PathElement::new(ends, colour.stroke_width(5))))?;
        drawn(area.draw(&Circle::new((x, y), 5, colour.filled())))?;
        let (beside, style) = (ends[1].0.max(x) + 10, text(12, INK, HPos::Left, VPos::Center));
        drawn(area.draw_text(&number(dot.spread.median), &style, (beside, y)))
    }
}
