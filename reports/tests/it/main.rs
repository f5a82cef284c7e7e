//! Integration tests of `reports`: one binary, one module for each part.

mod accumulate;
mod compare;
mod cost;
mod dialect;
mod energy;
mod fit;
mod gate;
mod histogram;
mod noise;
mod preflight;
mod render;
mod schema;
mod simulated;
mod stats;
mod synthetic;
mod validity;
