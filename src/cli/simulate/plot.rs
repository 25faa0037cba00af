//! The plot of a simulation: which share of the canaries has been decided by when.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use crate::release::simulation::Report;

const SIZE: (u32, u32) = (900, 480);

/// Draws the report as SVG. Solid lines are the sequential test's, thin ones the threshold rule's.
pub(super) fn draw(report: &Report, file: &Path) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let minutes = report.analysis.aborted_by_minute.len().max(report.threshold_rule.aborted_by_minute.len());
    let mut chart = ChartBuilder::on(&root)
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .caption(format!("{} simulated canaries", report.runs), ("sans-serif", 20))
        .build_cartesian_2d(0.0..minutes.max(1) as f64, 0.0..100.0)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("minutes since the rollout began")
        .y_desc("% of the canaries")
        .draw()?;
    let (bad, good) = (RGBColor(178, 34, 34), RGBColor(0, 110, 60));
    let lines = [
        ("aborted, sequential test", &report.analysis.aborted_by_minute, bad.stroke_width(3)),
        (
            "evidence for a promotion, sequential test",
            &report.analysis.proven_by_minute,
            good.stroke_width(3),
        ),
        ("aborted, threshold rule", &report.threshold_rule.aborted_by_minute, bad.mix(0.55).stroke_width(1)),
        ("promoted, threshold rule", &report.threshold_rule.proven_by_minute, good.mix(0.55).stroke_width(1)),
    ];
    for (name, shares, style) in lines {
        chart
            .draw_series(LineSeries::new(steps(shares, minutes), style))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::MiddleRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 14))
        .draw()?;
    root.present()?;
    Ok(())
}

/// Shares only change at the end of a minute; after the last decision they stay.
fn steps(shares: &[f64], minutes: usize) -> Vec<(f64, f64)> {
    let mut points = vec![(0.0, 0.0)];
    let mut before = 0.0;
    for minute in 1..=minutes {
        let share = shares.get(minute - 1).copied().unwrap_or(before) * 100.0;
        points.extend([(minute as f64, before * 100.0), (minute as f64, share)]);
        before = share / 100.0;
    }
    points
}
