//! Bar and line charts as SVG, legible on light and dark pages.

use std::fmt::Write;

/// Ours first, then the others, each with a colour of its own.
const COLOURS: [&str; 6] = ["#c2410c", "#64748b", "#94a3b8", "#2563eb", "#15803d", "#7e22ce"];
const INK: &str = "#1f2937";
const GRID: &str = "#e5e7eb";

/// Where a chart's labels end and its bars begin.
const LEFT: f64 = 190.0;
const WIDTH: f64 = 820.0;
const TOP: f64 = 64.0;

/// A row of bars: a name, the place of its colour, and a value per series.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) colour: usize,
    pub(crate) values: Vec<f64>,
}

/// Horizontal bars in milliseconds, on a logarithmic scale from `least`; further series are paler.
pub(crate) fn bars(title: &str, series: &[&str], least: f64, rows: &[Row]) -> String {
    let bar = 16.0;
    let row_height = bar * index(series.len()) + 14.0;
    let height = TOP + row_height * index(rows.len()) + 40.0;
    let most = rows.iter().flat_map(|row| &row.values).copied().fold(least, f64::max);
    let decades = (most / least).log10().ceil().max(1.0);
    let right = WIDTH - 90.0;
    let x = |value: f64| LEFT + (value.max(least) / least).log10() / decades * (right - LEFT);

    let mut svg =
        open(title, &format!("milliseconds, logarithmic scale; {}", series.join(", then ")), height);
    let mut tick = least;
    while tick <= least * 10_f64.powf(decades) * 1.001 {
        let at = x(tick);
        line(&mut svg, (at, TOP - 6.0), (at, height - 34.0), GRID, 1.0);
        text(&mut svg, (at, height - 16.0), "middle", 12, &label(tick));
        tick *= 10.0;
    }
    for (number, row) in rows.iter().enumerate() {
        let y = TOP + row_height * index(number);
        let middle = y + bar * index(series.len()) / 2.0 + 4.0;
        text(&mut svg, (LEFT - 10.0, middle), "end", 13, row.name);
        for (place, value) in row.values.iter().enumerate() {
            let y = y + bar * index(place);
            let opacity = 1.0 - 0.45 * index(place);
            let width = x(*value) - LEFT;
            let _ = writeln!(
                svg,
                r#"<rect x="{LEFT}" y="{y:.1}" width="{width:.1}" height="{:.1}" rx="2" fill="{}" opacity="{opacity}"/>"#,
                bar - 3.0,
                COLOURS[row.colour % COLOURS.len()]
            );
            text(&mut svg, (x(*value) + 6.0, y + bar - 5.0), "start", 12, &short(*value));
        }
    }
    svg + "</svg>\n"
}

/// Lines over the same places, in milliseconds; both scales logarithmic but for a first place of 0.
pub(crate) fn lines(title: &str, below: &str, places: &[u64], rows: &[Row]) -> String {
    let height = 400.0;
    let (right, bottom) = (WIDTH - 190.0, height - 60.0);
    let left = 70.0;
    let most = rows.iter().flat_map(|row| &row.values).copied().fold(1.0, f64::max);
    let least = 0.1;
    let decades = (most / least).log10().ceil();
    let x = |place: usize| left + (right - left) * index(place) / (index(places.len()) - 1.0);
    let y = |value: f64| bottom - (value.max(least) / least).log10() / decades * (bottom - TOP);

    let mut svg = open(title, "milliseconds, logarithmic scale", height);
    let mut tick = least;
    while tick <= least * 10_f64.powf(decades) * 1.001 {
        line(&mut svg, (left, y(tick)), (right, y(tick)), GRID, 1.0);
        text(&mut svg, (left - 8.0, y(tick) + 4.0), "end", 12, &label(tick));
        tick *= 10.0;
    }
    for (place, label) in places.iter().enumerate() {
        text(&mut svg, (x(place), bottom + 20.0), "middle", 12, &label.to_string());
    }
    text(&mut svg, (f64::midpoint(left, right), bottom + 42.0), "middle", 12, below);
    // Names at the ends of the lines, moved apart where they would cover each other.
    let mut ends: Vec<_> = rows.iter().filter_map(|row| Some((y(*row.values.last()?), row))).collect();
    ends.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let mut free = 0.0;
    for (end, row) in ends {
        let colour = COLOURS[row.colour % COLOURS.len()];
        let points: Vec<_> = row
            .values
            .iter()
            .enumerate()
            .map(|(place, value)| format!("{:.1},{:.1}", x(place), y(*value)))
            .collect();
        let width = if row.colour == 0 { 3 } else { 2 };
        let _ = writeln!(
            svg,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="{width}"/>"#,
            points.join(" ")
        );
        let at = f64::max(end + 4.0, free);
        free = at + 16.0;
        let _ = writeln!(
            svg,
            r#"<text x="{:.1}" y="{at:.1}" font-size="13" fill="{colour}">{} {}</text>"#,
            right + 8.0,
            row.name,
            row.values.last().map(|value| short(*value)).unwrap_or_default()
        );
    }
    svg + "</svg>\n"
}

fn open(title: &str, subtitle: &str, height: f64) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" \
         font-family=\"system-ui, sans-serif\" role=\"img\" aria-label=\"{title}\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"white\"/>\n"
    );
    let _ =
        writeln!(svg, r#"<text x="16" y="26" font-size="16" font-weight="600" fill="{INK}">{title}</text>"#);
    text(&mut svg, (16.0, 46.0), "start", 12, subtitle);
    svg
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, size: u8, text: &str) {
    let _ = writeln!(
        svg,
        r#"<text x="{x:.1}" y="{y:.1}" font-size="{size}" text-anchor="{anchor}" fill="{INK}">{text}</text>"#
    );
}

fn line(svg: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str, width: f64) {
    let _ = writeln!(
        svg,
        r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{colour}" stroke-width="{width}"/>"#
    );
}

/// A power of ten.
fn label(tick: f64) -> String {
    if tick < 1.0 { short(tick) } else { format!("{tick:.0}") }
}

/// Three digits.
pub(crate) fn short(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}").trim_end_matches('0').to_owned(),
    }
}

fn index(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::NAN, f64::from)
}
