//! The typeface of contact sheets and charts.

use std::sync::Once;

use plotters::style::{FontDesc, FontFamily, FontStyle, register_font};

/// The only typeface of the program, registered with the plotter once.
pub fn font(size: f64) -> FontDesc<'static> {
    static REGISTER: Once = Once::new();
    REGISTER.call_once(|| {
        // a face that cannot be read would show as missing text, which the tests look for
        let _ = register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular());
    });
    FontDesc::new(FontFamily::SansSerif, size, FontStyle::Normal)
}
