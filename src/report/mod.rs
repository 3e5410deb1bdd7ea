//! What the program shows people: contact sheets, loss curves, pages. From data and pictures alone.

mod chart;
mod course;
mod font;
pub mod heat;
pub mod html;
pub mod loss_curve;
mod overlay;
mod overview;
pub mod page;
pub mod sheet;
pub mod study;

pub use course::{Course, course_page};
pub use loss_curve::loss_curve;
pub use overlay::overlay;
pub use overview::overview;
pub use sheet::contact_sheet;
