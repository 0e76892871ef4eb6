//! The figures as a picture: two bars a place, in SVG that any browser shows.

use super::storage::Figures;
use crate::say;

const WIDTH: f64 = 800.0;
/// Where bars begin, and how long the longest is.
const LEFT: f64 = 20.0;
const LONGEST: f64 = 640.0;
/// Of one place: its name and two bars.
const ROW: f64 = 84.0;
const TOP: f64 = 60.0;
const BAR: f64 = 22.0;

/// Rates up and down, to one scale.
pub fn svg(all: &[Figures], size: u64) -> String {
    let rates = all.iter().flat_map(|figures| [figures.up.mbit_s(size), figures.down.mbit_s(size)]);
    let most = rates.flatten().fold(1.0, f64::max);
    let height = TOP + ROW * all.len() as f64 + 10.0;
    let title = format!("{} each way, Mbit/s", say::bytes(size));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"14\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"32\" font-size=\"18\">{title}</text>\n"
    );
    for (number, figures) in all.iter().enumerate() {
        let y = TOP + ROW * number as f64;
        let rtt = figures.rtt.map_or(String::new(), |rtt| format!(", RTT {:.1} ms", rtt.as_secs_f64() * 1e3));
        let name = escaped(&format!("{}{rtt}", figures.place));
        svg += &format!("<text x=\"{LEFT}\" y=\"{}\">{name}</text>\n", y + 16.0);
        let ways = [("up", &figures.up, "#3b6ea5"), ("down", &figures.down, "#d9822b")];
        for ((what, way, color), y) in ways.into_iter().zip([y + 24.0, y + 26.0 + BAR]) {
            let rate = way.mbit_s(size);
            let width = rate.unwrap_or(0.0) / most * LONGEST;
            let said = rate.map_or(format!("{what}: failed"), |rate| format!("{what} {rate:.0}"));
            svg += &format!(
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{color}\"/>\n\
                 <text x=\"{:.1}\" y=\"{}\">{said}</text>\n",
                LEFT + width + 8.0,
                y + 16.0
            );
        }
    }
    svg + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::storage::Way;

    #[test]
    fn the_fastest_bar_is_the_longest_and_names_are_text() {
        let way = |millis| Way { took: vec![Duration::from_millis(millis)], failures: 0 };
        let figures = Figures { place: "s3://<b>".to_owned(), up: way(1000), down: way(500), ..Figures::default() };
        let svg = svg(&[figures], 1_000_000);
        assert!(svg.contains("width=\"320.0\"") && svg.contains("width=\"640.0\""), "{svg}");
        assert!(svg.contains("s3://&lt;b&gt;") && svg.contains("up 8<") && svg.contains("down 16<"), "{svg}");
    }
}
