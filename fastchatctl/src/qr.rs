//! QR codes of half blocks.
//!
//! **Invariant**: a code is dark on light, with a quiet zone around it, whatever the terminal's colours are.

use anstyle::AnsiColor;
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;

use crate::failure::{Exit, Failure};
use crate::output::has_colour;

/// The code: black on white where colours may be used, else for light text on a dark ground.
pub(crate) fn shown(content: &str) -> Result<String, Failure> {
    let code = QrCode::new(content)
        .map_err(|error| Failure::new(Exit::Internal, "internal", format!("no QR code can be made: {error}")))?;
    let mut render = code.render::<Dense1x2>();
    if !has_colour() {
        return Ok(render.dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build());
    }
    let paper = AnsiColor::Black.on(AnsiColor::BrightWhite);
    Ok(render.build().lines().map(|line| format!("{paper}{line}{paper:#}\n")).collect())
}
