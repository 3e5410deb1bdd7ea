//! The typeface of contact sheets and charts.

use std::sync::Once;

use plotters::style::{FontDesc, FontFamily, FontStyle, register_font};

/// DejaVu Sans 2.37, whose licence is beside it.
const DEJAVU_SANS: &[u8] = include_bytes!("../../assets/font/DejaVuSans.ttf");

/// The only typeface of the program, registered with the plotter once.
pub(super) fn font(size: f64) -> FontDesc<'static> {
    static REGISTER: Once = Once::new();
    REGISTER.call_once(|| {
        // a face that cannot be read would show as missing text, which the tests look for
        let _ = register_font("sans-serif", FontStyle::Normal, DEJAVU_SANS);
    });
    FontDesc::new(FontFamily::SansSerif, size, FontStyle::Normal)
}
