//! The distributions as an SVG, legible on light and on dark backgrounds.

use std::fmt::Write;

/// How soon the changes were followed in one mode.
pub(crate) struct Curve<'a> {
    pub(crate) label: String,
    pub(crate) colour: &'a str,
    /// Sorted; infinite where a change was not followed.
    pub(crate) seconds: &'a [f64],
}

const WIDTH: f64 = 860.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 840.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = 346.0;
/// From one line of the legend to the next.
const LINE: f64 = 20.0;

/// The ends of the time axis, in seconds.
const SHORTEST: f64 = 0.05;
const LONGEST: f64 = 120.0;
const TICKS: [f64; 11] = [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0];

/// The share of changes that were followed, against the time that it took.
pub(crate) fn draw(curves: &[Curve<'_>]) -> String {
    let legend = BOTTOM + 66.0;
    let height = legend + LINE * curves.len() as f64;
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">
<title>How soon the targets follow a change in DNS</title>
<style>
text {{ font: 13px Helvetica, Arial, sans-serif; fill: #24292f }}
.title {{ font-size: 16px; font-weight: bold }}
.grid {{ stroke: #808080; stroke-opacity: 0.3 }}
.curve {{ fill: none; stroke-width: 2.5; stroke-linejoin: round }}
@media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3 }} }}
</style>
<text class="title" x="{LEFT}" y="24">Changes in DNS that the targets had followed, by the time since the change</text>
"##
    );
    for percent in [0, 25, 50, 75, 100] {
        let y = y(f64::from(percent) / 100.0);
        let _ = writeln!(
            svg,
            r#"<line class="grid" x1="{LEFT}" y1="{y:.1}" x2="{RIGHT}" y2="{y:.1}"/>
<text x="{:.1}" y="{:.1}" text-anchor="end">{percent} %</text>"#,
            LEFT - 8.0,
            y + 4.0
        );
    }
    for seconds in TICKS {
        let x = x(seconds);
        let _ = writeln!(
            svg,
            r#"<line class="grid" x1="{x:.1}" y1="{TOP}" x2="{x:.1}" y2="{BOTTOM}"/>
<text x="{x:.1}" y="{:.1}" text-anchor="middle">{seconds} s</text>"#,
            BOTTOM + 20.0
        );
    }
    for (number, Curve { label, colour, seconds }) in curves.iter().enumerate() {
        let points = points(seconds);
        let line = legend + LINE * number as f64;
        let _ = writeln!(
            svg,
            r#"<polyline class="curve" stroke="{colour}" points="{points}"/>
<line class="curve" stroke="{colour}" x1="{LEFT}" y1="{:.1}" x2="{:.1}" y2="{:.1}"/>
<text x="{:.1}" y="{line:.1}">{label}</text>"#,
            line - 4.0,
            LEFT + 28.0,
            line - 4.0,
            LEFT + 38.0,
        );
    }
    let _ = writeln!(
        svg,
        r#"<text x="{LEFT}" y="{:.1}">Until DeregisterTargets, which comes after RegisterTargets: median, 95 %, worst</text>"#,
        BOTTOM + 44.0
    );
    svg + "</svg>\n"
}

/// A staircase, from nothing at the left to the share at the right.
fn points(seconds: &[f64]) -> String {
    let share = |followed: usize| y(followed as f64 / seconds.len() as f64);
    let mut points = format!("{LEFT:.1},{BOTTOM:.1}");
    let mut followed = 0;
    for seconds in seconds.iter().filter(|seconds| seconds.is_finite()) {
        let _ = write!(points, " {:.1},{:.1}", x(*seconds), share(followed));
        followed += 1;
        let _ = write!(points, " {:.1},{:.1}", x(*seconds), share(followed));
    }
    let _ = write!(points, " {RIGHT:.1},{:.1}", share(followed));
    points
}

fn x(seconds: f64) -> f64 {
    let share = (seconds.clamp(SHORTEST, LONGEST) / SHORTEST).ln() / (LONGEST / SHORTEST).ln();
    LEFT + (RIGHT - LEFT) * share
}

fn y(share: f64) -> f64 {
    BOTTOM - (BOTTOM - TOP) * share
}
