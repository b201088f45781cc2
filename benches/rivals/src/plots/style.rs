//! What all plots have in common: colours, letters, and axes that are logarithmic.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub(crate) const INK: RGBColor = RGBColor(0x22, 0x26, 0x2b);
pub(crate) const FAINT: RGBColor = RGBColor(0x6b, 0x72, 0x7b);
pub(crate) const GRID: RGBColor = RGBColor(0xe3, 0xe6, 0xea);
pub(crate) const FONT: &str = "sans-serif";

/// Who a figure is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Floor,
    Ours,
    Rival,
}

impl Tone {
    pub(crate) fn colour(self) -> RGBColor {
        match self {
            Self::Floor => RGBColor(0x8a, 0x93, 0x9e),
            Self::Ours => RGBColor(0x0b, 0x62, 0xd6),
            Self::Rival => RGBColor(0xd9, 0x6c, 0x16),
        }
    }

    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Floor => "floor, no RPC",
            Self::Ours => "witrpc",
            Self::Rival => "others",
        }
    }
}

/// Turns the errors of drawing, which borrow, into ours.
pub(crate) fn drawn<T>(result: Result<T, impl std::fmt::Display>) -> Result<T> {
    result.map_err(|error| anyhow!("drawing: {error}"))
}

/// A style for text of this size, placed by these edges of it.
pub(crate) fn text(size: u32, colour: RGBColor, h: HPos, v: VPos) -> TextStyle<'static> {
    (FONT, size).into_font().color(&colour).pos(Pos::new(h, v))
}

/// What an axis has from end to end at least.
const SPAN: f64 = 10.0;

/// A logarithmic axis over pixels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogAxis {
    pub(crate) least: f64,
    pub(crate) most: f64,
    pub(crate) from: i32,
    pub(crate) to: i32,
}

impl LogAxis {
    /// Around these figures, with a little air.
    pub(crate) fn around(figures: impl IntoIterator<Item = f64>, from: i32, to: i32) -> Self {
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        for figure in figures.into_iter().filter(|figure| *figure > 0.0) {
            (least, most) = (least.min(figure), most.max(figure));
        }
        // Small differences are to look small.
        let air = (SPAN * least / most).sqrt().max(1.25);
        Self { least: least / air, most: most * air, from, to }
    }

    pub(crate) fn at(self, figure: f64) -> i32 {
        let share = (figure / self.least).ln() / (self.most / self.least).ln();
        self.from + (share * f64::from(self.to - self.from)).round() as i32
    }

    /// Where to draw lines: at ones, or at ones, twos and fives if there are few.
    pub(crate) fn ticks(self) -> Vec<f64> {
        let decades = |steps: &[f64]| -> Vec<f64> {
            let (low, high) = (self.least.log10().floor() as i32, self.most.log10().ceil() as i32);
            let all = (low..=high).flat_map(|e| steps.iter().map(move |s| s * 10_f64.powi(e)));
            all.filter(|tick| (self.least..=self.most).contains(tick)).collect()
        };
        let ones = decades(&[1.0]);
        if ones.len() > 3 { ones } else { decades(&[1.0, 2.0, 5.0]) }
    }
}

/// A number as people write it.
pub(crate) fn number(figure: f64) -> String {
    match figure {
        f if f >= 1e6 => format!("{} M", trimmed(f / 1e6)),
        f if f >= 1e4 => format!("{} k", trimmed(f / 1e3)),
        f => trimmed(f),
    }
}

fn trimmed(figure: f64) -> String {
    let digits = match figure {
        f if f >= 99.5 => 0,
        f if f >= 9.95 => 1,
        f if f >= 0.0995 => 2,
        _ => 4,
    };
    let text = format!("{figure:.digits$}");
    if text.contains('.') {
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let numbers = [0.4, 1.0, 12.5, 100.0, 2500.0, 48_000.0, 2_354_784.0].map(number);
        assert_eq!(numbers, ["0.4", "1", "12.5", "100", "2500", "48 k", "2.35 M"]);
    }

    #[test]
    fn an_axis_spans_its_pixels() {
        let axis = LogAxis { least: 1.0, most: 100.0, from: 10, to: 210 };
        assert_eq!([axis.at(1.0), axis.at(10.0), axis.at(100.0)], [10, 110, 210]);
        assert_eq!(axis.ticks(), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
    }
}
