//! Uploads to the device made of software.

#[path = "../uploads/mod.rs"]
mod cases;

#[test]
fn every_byte_arrives() {
    cases::every_byte_arrives(&super::device());
}
