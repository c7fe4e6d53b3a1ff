//! A number over time as SVG: drawn once, readable without any script and without colours.
//!
//! A period without a measurement is a hole with a band, never a line across and never 0.

use std::fmt::Write as _;

use super::esc;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 150.0;
/// Room for the numbers beside the axis, and for the times below.
const LEFT: f64 = 80.0;
const BOTTOM: f64 = 18.0;
const TOP: f64 = 6.0;
/// A band narrower than this is not seen.
const BAND_MIN: f64 = 2.0;

/// A number in words.
pub(super) type Words = fn(f64) -> String;

/// What is drawn.
pub(super) struct Chart<'a> {
    pub(super) title: &'a str,
    /// Begin and end, in seconds since 1970 UTC.
    pub(super) period: (i64, i64),
    /// Between two measurements.
    pub(super) step_seconds: i64,
    /// In order of time; `None` where it was not known.
    pub(super) points: &'a [(i64, Option<f64>)],
    pub(super) words: Words,
    /// A moment of the period in words.
    pub(super) clock: fn(i64) -> String,
}

impl Chart<'_> {
    pub(super) fn html(&self) -> String {
        let known = self.points.iter().filter_map(|(_, value)| *value);
        let most = known.clone().fold(0.0, f64::max);
        let title = esc(self.title);
        if known.count() == 0 {
            return format!(
                "<figure><figcaption><b>{title}</b> not measured in this period</figcaption></figure>\n"
            );
        }
        let holes = self.holes();
        let missing: i64 = holes.iter().map(|(from, to)| to - from).sum();
        let share = missing as f64 / (self.period.1 - self.period.0).max(1) as f64 * 100.0;
        // A measurement alone in a month is still one.
        let share = if share > 99.0 && share < 100.0 {
            "more than 99".to_owned()
        } else {
            format!("{share:.0}")
        };
        let summary = format!(
            "at most {}; {share} % of the period not measured",
            (self.words)(most)
        );
        let mut svg = String::new();
        let height = HEIGHT + TOP + BOTTOM;
        put(
            &mut svg,
            format_args!(
                "<figure><figcaption><b>{title}</b> {summary}</figcaption>\
                 <svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}: {summary}\">\n"
            ),
        );
        for (from, to) in &holes {
            let (x, width) = (self.x(*from), (self.x(*to) - self.x(*from)).max(BAND_MIN));
            put(
                &mut svg,
                format_args!(
                    "<rect class=\"hole\" x=\"{x:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{HEIGHT}\">\
                     <title>not measured</title></rect>\n"
                ),
            );
        }
        self.axes(&mut svg, most);
        for line in self.lines(most) {
            put(
                &mut svg,
                format_args!("<path class=\"line\" d=\"{line}\"/>\n"),
            );
        }
        svg.push_str("</svg></figure>\n");
        svg
    }

    fn axes(&self, svg: &mut String, most: f64) {
        for part in [0.0, 0.5, 1.0] {
            let (y, words) = (y_of(most * part, most), esc(&(self.words)(most * part)));
            let label_x = LEFT - 6.0;
            put(
                svg,
                format_args!(
                    "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{WIDTH}\"/>\
                     <text x=\"{label_x}\" y=\"{:.1}\" text-anchor=\"end\">{words}</text>\n",
                    y + 4.0
                ),
            );
        }
        let (from, to) = self.period;
        for (at, anchor) in [
            (from, "start"),
            (from + (to - from) / 2, "middle"),
            (to, "end"),
        ] {
            let (x, y) = (self.x(at), HEIGHT + TOP + BOTTOM - 4.0);
            let words = esc(&(self.clock)(at));
            put(
                svg,
                format_args!(
                    "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"{anchor}\">{words}</text>\n"
                ),
            );
        }
    }

    /// Paths through what was measured one after the other.
    fn lines(&self, most: f64) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        let mut before: Option<i64> = None;
        for (at, value) in self.points {
            let Some(value) = value else {
                before = None;
                continue;
            };
            let (x, y) = (self.x(*at), y_of(*value, most));
            match (before, lines.last_mut()) {
                (Some(before), Some(line)) if self.is_next(before, *at) => {
                    put(line, format_args!("L{x:.1} {y:.1}"));
                }
                // A point alone is seen, too.
                _ => lines.push(format!("M{x:.1} {y:.1}h0.1")),
            }
            before = Some(*at);
        }
        lines
    }

    /// Periods in which nothing was measured.
    fn holes(&self) -> Vec<(i64, i64)> {
        let known = self.points.iter().filter(|(_, value)| value.is_some());
        let mut holes = Vec::new();
        let mut before = self.period.0;
        for (at, _) in known {
            if *at - before > self.step_seconds {
                holes.push((before, *at));
            }
            before = *at + self.step_seconds;
        }
        if before < self.period.1 - self.step_seconds {
            holes.push((before, self.period.1));
        }
        holes
    }

    /// Whether no measurement is missing between two moments.
    fn is_next(&self, before: i64, at: i64) -> bool {
        at - before <= self.step_seconds * 2
    }

    fn x(&self, at: i64) -> f64 {
        let (from, to) = self.period;
        let part = (at.clamp(from, to) - from) as f64 / (to - from).max(1) as f64;
        LEFT + part * (WIDTH - LEFT)
    }
}

fn y_of(value: f64, most: f64) -> f64 {
    let part = if most > 0.0 { value / most } else { 0.0 };
    TOP + HEIGHT * (1.0 - part)
}

fn put(svg: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let written = svg.write_fmt(text);
    debug_assert!(written.is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: &[(i64, Option<f64>)]) -> Chart<'_> {
        Chart {
            title: "Gap",
            period: (0, 100),
            step_seconds: 10,
            points,
            words: |n| format!("{n:.0} B"),
            clock: |at| at.to_string(),
        }
    }

    #[test]
    fn what_was_not_measured_is_a_hole_and_no_line_crosses_it() {
        let mut points: Vec<(i64, Option<f64>)> =
            (0..10).map(|i| (i * 10, Some(i as f64))).collect();
        assert!(chart(&points).holes().is_empty());
        assert_eq!(chart(&points).lines(9.0).len(), 1);
        points[4].1 = None;
        points[5].1 = None;
        assert_eq!(chart(&points).holes(), [(40, 60)]);
        assert_eq!(chart(&points).lines(9.0).len(), 2);
        points.remove(5);
        points.remove(4);
        assert_eq!(chart(&points).lines(9.0).len(), 2, "no bucket at all");
        let html = chart(&points).html();
        assert!(html.contains("20 % of the period not measured"), "{html}");
        assert_eq!(html.matches("class=\"hole\"").count(), 1);
        points.truncate(3);
        assert_eq!(chart(&points).holes(), [(30, 100)], "nothing since");
    }

    #[test]
    fn a_period_without_any_measurement_has_no_chart_and_no_zero() {
        for points in [vec![], vec![(10, None), (20, None)]] {
            let html = chart(&points).html();
            assert!(html.contains("not measured in this period") && !html.contains("svg"));
        }
    }
}
