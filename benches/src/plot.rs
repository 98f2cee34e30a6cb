//! Bars, as SVG that reads on light and dark pages alike.

use std::fmt::Write as _;

/// Groups of bars, one of each series.
pub struct Bars {
    /// Without its ending.
    pub file: &'static str,
    pub title: &'static str,
    pub unit: &'static str,
    /// What a value is multiplied with to be shown.
    pub scale: f64,
    pub series: Vec<&'static str>,
    /// A label, and a value for each of the series, None where there is none.
    pub groups: Vec<(String, Vec<Option<f64>>)>,
}

const COLOURS: [&str; 6] = [
    "#2f6fde", "#d9822b", "#3d9a50", "#b0413e", "#8a8f98", "#8456ce",
];
const LEFT: f64 = 250.0;
const WIDTH: f64 = 420.0;
const BAR: f64 = 14.0;
const GAP: f64 = 14.0;
const TOP: f64 = 64.0;

impl Bars {
    pub fn svg(&self) -> String {
        let values = self
            .groups
            .iter()
            .flat_map(|(_, values)| values.iter().flatten());
        let largest = values.fold(f64::MIN_POSITIVE, |a, b| a.max(*b));
        let group_height = BAR * self.series.len() as f64 + GAP;
        let height = TOP + group_height * self.groups.len() as f64 + 10.0;
        let total = LEFT + WIDTH + 90.0;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {total} {height}\" width=\"{total}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\" role=\"img\">\n\
             <title>{}</title>\n<style>text {{ fill: #24292f }} @media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3 }} }}</style>\n\
             <text x=\"8\" y=\"20\" font-size=\"15\" font-weight=\"bold\">{}</text>\n",
            escaped(self.title),
            escaped(&format!("{}, {}", self.title, self.unit)),
        );
        let mut x = 8.0;
        for (name, colour) in self.series.iter().zip(COLOURS) {
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"34\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"{}\" y=\"44\">{}</text>",
                x + 16.0,
                escaped(name)
            );
            x += 40.0 + 7.0 * name.chars().count() as f64;
        }
        for (number, (label, values)) in self.groups.iter().enumerate() {
            let top = TOP + group_height * number as f64;
            let middle = top + (group_height - GAP) / 2.0 + 4.0;
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                escaped(label)
            );
            for (place, (value, colour)) in values.iter().zip(COLOURS).enumerate() {
                let Some(value) = value else { continue };
                let (y, width) = (top + BAR * place as f64, value / largest * WIDTH);
                let _ = writeln!(
                    svg,
                    "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{}\" font-size=\"11\">{}</text>",
                    BAR - 2.0,
                    LEFT + width + 5.0,
                    y + 10.0,
                    self.shown(*value)
                );
            }
        }
        svg + "</svg>\n"
    }

    /// The same numbers to read.
    pub fn table(&self) -> String {
        let mut table = format!("| {} | {} |\n|---|", self.unit, self.series.join(" | "));
        table += &"---|".repeat(self.series.len());
        table += "\n";
        for (label, values) in &self.groups {
            let shown =
                |value: &Option<f64>| value.map_or(String::new(), |value| self.shown(value));
            let cells: Vec<String> = values.iter().map(shown).collect();
            let _ = writeln!(table, "| {label} | {} |", cells.join(" | "));
        }
        table
    }

    fn shown(&self, value: f64) -> String {
        let value = value * self.scale;
        let digits = if value < 10.0 { 2 } else { 0 };
        format!("{value:.digits$}")
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_is_as_wide_as_the_plot_and_what_is_not_there_has_none() {
        let bars = Bars {
            file: "x",
            title: "a < b",
            unit: "ms",
            scale: 1.0,
            series: vec!["ours", "theirs"],
            groups: vec![
                ("one".to_owned(), vec![Some(5.0), Some(10.0)]),
                ("two".to_owned(), vec![Some(1.0), None]),
            ],
        };
        let svg = bars.svg();
        assert!(svg.contains("a &lt; b"));
        assert!(svg.contains(&format!("width=\"{WIDTH:.1}\"")));
        // Two for the legend, three for the values.
        assert_eq!(svg.matches("<rect").count(), 5);
        assert!(bars.table().contains("| two | 1.00 |  |"));
    }
}
