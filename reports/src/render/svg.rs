//! Draws a plot as SVG through plotters, in colours that the page's style sheet decides.
//!
//! plotters writes fixed colours, so each role is drawn in a placeholder colour of its own, and the
//! finished text has them replaced by CSS variables and by the data attributes that the page's
//! script works with. Fonts come from the page. What it does not do: decide what is shown.

use std::fmt::Write as _;

use plotters::backend::SVGBackend;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea as _};
use plotters::element::{PathElement, Polygon, Rectangle, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color as _, IntoFont as _, RGBColor, ShapeStyle, TextStyle};

use super::plot::{Plot, Series, Shape};

/// Units of the drawing for one CSS pixel at the designed width, so that integers are fine enough.
const FINE: i32 = 4;
const WIDTH: i32 = 460 * FINE;
const HEIGHT: i32 = 284 * FINE;
const LEFT: i32 = 58 * FINE;
const RIGHT: i32 = WIDTH - 14 * FINE;
const TOP: i32 = 20 * FINE;
const BOTTOM: i32 = HEIGHT - 26 * FINE;
/// plotters divides by 1.24 on the way to SVG.
const FONT: f64 = 12.5 * 1.24 * FINE as f64;

const LABEL: RGBColor = RGBColor(2, 2, 2);
const X_LABEL: RGBColor = RGBColor(2, 2, 3);
const GRID: RGBColor = RGBColor(3, 3, 3);
const X_GRID: RGBColor = RGBColor(3, 3, 4);
const BASE: RGBColor = RGBColor(3, 3, 5);
const SHADE: RGBColor = RGBColor(4, 4, 4);
const MARK: RGBColor = RGBColor(5, 5, 5);
const MARK_LABEL: RGBColor = RGBColor(5, 5, 6);
const LEVEL_LABEL: RGBColor = RGBColor(5, 5, 7);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Corners of the plotting area and the size of the whole, for the page's script.
pub(super) const FRAME: [i32; 6] = [LEFT, TOP, RIGHT, BOTTOM, WIDTH, HEIGHT];

/// The SVG element; empty should plotters fail, which it does not when it writes to memory.
pub(super) fn svg(plot: &Plot) -> String {
    let mut text = String::new();
    let size = (WIDTH as u32, HEIGHT as u32);
    let drawn = draw(
        plot,
        &SVGBackend::with_string(&mut text, size).into_drawing_area(),
    );
    if drawn.is_err() {
        return String::new();
    }
    themed(&text, plot)
}

fn draw(plot: &Plot, area: &Area<'_>) -> Drawn {
    for &(low, high) in &plot.shades {
        let corners = [(x_at(plot, low), TOP), (x_at(plot, high), BOTTOM)];
        area.draw(&Rectangle::new(corners, SHADE.filled()))?;
    }
    draw_grid(plot, area)?;
    for series in &plot.series {
        draw_series(plot, series, area)?;
    }
    draw_marks(plot, area)?;
    area.draw(&PathElement::new(
        vec![(LEFT, BOTTOM), (RIGHT, BOTTOM)],
        thin(BASE),
    ))?;
    area.present()?;
    Ok(())
}

fn x_at(plot: &Plot, value: f64) -> i32 {
    LEFT + (plot.x.fraction(value) * f64::from(RIGHT - LEFT)).round() as i32
}

fn y_at(plot: &Plot, value: f64) -> i32 {
    BOTTOM - (plot.y.fraction(value) * f64::from(BOTTOM - TOP)).round() as i32
}

fn thin(colour: RGBColor) -> ShapeStyle {
    colour.stroke_width(FINE as u32)
}

fn style(colour: RGBColor, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    let font = ("sans-serif", FONT).into_font();
    let mut style = TextStyle::from(font).pos(Pos::new(horizontal, vertical));
    style.color = colour.to_backend_color();
    style
}

fn draw_grid(plot: &Plot, area: &Area<'_>) -> Drawn {
    for (value, label) in plot.y.ticks(6) {
        let y = y_at(plot, value);
        area.draw(&PathElement::new(vec![(LEFT, y), (RIGHT, y)], thin(GRID)))?;
        let place = (LEFT - 7 * FINE, y);
        area.draw(&Text::new(
            label,
            place,
            style(LABEL, HPos::Right, VPos::Center),
        ))?;
    }
    let mut free_from = 0;
    for (value, label) in plot.x.ticks(6) {
        let x = x_at(plot, value);
        area.draw(&PathElement::new(vec![(x, TOP), (x, BOTTOM)], thin(X_GRID)))?;
        let half = label.chars().fold(0, |width, _| width + 7 * FINE) / 2;
        if x - half < free_from || x + half > WIDTH {
            continue;
        }
        free_from = x + half + 6 * FINE;
        let place = (x, BOTTOM + 8 * FINE);
        area.draw(&Text::new(
            label,
            place,
            style(X_LABEL, HPos::Center, VPos::Top),
        ))?;
    }
    Ok(())
}

fn slot_colour(slot: u8) -> RGBColor {
    RGBColor(10, 10, slot)
}

fn draw_series(plot: &Plot, series: &Series, area: &Area<'_>) -> Drawn {
    let colour = slot_colour(series.slot);
    if series.shape == Shape::Bars {
        for pair in series.points.windows(2) {
            let (low, high) = (x_at(plot, pair[0].0), x_at(plot, pair[1].0));
            let top = y_at(plot, pair[0].1);
            if top < BOTTOM {
                let right = (high - FINE).max(low + 1);
                area.draw(&Rectangle::new(
                    [(low, top), (right, BOTTOM)],
                    colour.filled(),
                ))?;
            }
        }
        return Ok(());
    }
    for part in series
        .points
        .split(|(_, y)| y.is_nan())
        .filter(|part| !part.is_empty())
    {
        let mut path: Vec<(i32, i32)> = part
            .iter()
            .map(|&(x, y)| (x_at(plot, x), y_at(plot, y)))
            .collect();
        if let [only] = path[..] {
            path = vec![(only.0 - FINE, only.1), (only.0 + FINE, only.1)];
        }
        if series.shape == Shape::Area {
            let (first, last) = (path[0].0, path[path.len() - 1].0);
            let mut outline = path.clone();
            outline.extend([(last, BOTTOM), (first, BOTTOM)]);
            area.draw(&Polygon::new(outline, colour.mix(0.14).filled()))?;
        }
        area.draw(&PathElement::new(
            path,
            colour.stroke_width(2 * FINE as u32),
        ))?;
    }
    Ok(())
}

fn draw_marks(plot: &Plot, area: &Area<'_>) -> Drawn {
    for &(value, label) in &plot.marks {
        let x = x_at(plot, value);
        area.draw(&PathElement::new(vec![(x, TOP), (x, BOTTOM)], thin(MARK)))?;
        let place = (x, TOP - 3 * FINE);
        area.draw(&Text::new(
            label,
            place,
            style(MARK_LABEL, HPos::Center, VPos::Bottom),
        ))?;
    }
    let inside = |value: f64| value > plot.y.min && value < plot.y.max;
    for &(value, label) in plot.levels.iter().filter(|level| inside(level.0)) {
        let y = y_at(plot, value);
        area.draw(&PathElement::new(vec![(LEFT, y), (RIGHT, y)], thin(MARK)))?;
        let place = (RIGHT, y - 2 * FINE);
        area.draw(&Text::new(
            label,
            place,
            style(LEVEL_LABEL, HPos::Right, VPos::Bottom),
        ))?;
    }
    Ok(())
}

/// Replaces placeholder colours by CSS variables and the head by one that scales and speaks.
fn themed(text: &str, plot: &Plot) -> String {
    let Some((_, body)) = text.split_once('>') else {
        return String::new();
    };
    let mut body = body
        .replace(" font-family=\"sans-serif\"", "")
        .replace(" opacity=\"1\"", "");
    let roles = [
        (LABEL, "", "muted"),
        (X_LABEL, "data-x=\"\" ", "muted"),
        (GRID, "", "grid"),
        (X_GRID, "data-x=\"\" ", "grid"),
        (BASE, "", "axis"),
        (SHADE, "data-z=\"\" ", "shade"),
        (MARK, "data-m=\"\" ", "ink"),
        (MARK_LABEL, "data-x=\"\" ", "ink"),
        (LEVEL_LABEL, "", "ink"),
    ];
    for (colour, attribute, variable) in roles {
        replace_colour(&mut body, colour, attribute, variable);
    }
    for series in &plot.series {
        let attribute = format!("data-s=\"{}\" ", series.slot);
        replace_colour(
            &mut body,
            slot_colour(series.slot),
            &attribute,
            &format!("s{}", series.slot),
        );
    }
    // Lines and columns of the SVG text carry no meaning; the page is smaller without them.
    let body = body.replace('\n', "");
    let names: Vec<&str> = plot.series.iter().map(|one| one.name.as_str()).collect();
    let mut head = String::new();
    let _ = write!(
        head,
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" tabindex=\"0\" \
         aria-labelledby=\"{id}-title {id}-about\"><title id=\"{id}-title\">{title}</title>\
         <desc id=\"{id}-about\">{names}. {caption}</desc>",
        id = plot.id,
        title = escaped(plot.title),
        names = escaped(&names.join(", ")),
        caption = escaped(&plot.caption),
    );
    head + &body
}

/// Names of series may come from outside.
fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;");
    text.replace('<', "&lt;").replace('>', "&gt;")
}

fn replace_colour(body: &mut String, colour: RGBColor, attribute: &str, variable: &str) {
    let RGBColor(red, green, blue) = colour;
    for paint in ["fill", "stroke"] {
        let fixed = format!("{paint}=\"#{red:02X}{green:02X}{blue:02X}\"");
        *body = body.replace(&fixed, &format!("{attribute}{paint}=\"var(--{variable})\""));
    }
}
