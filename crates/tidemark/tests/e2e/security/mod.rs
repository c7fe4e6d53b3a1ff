//! What somebody may try on the program without a server of ours; `catalogue.toml` lists it, and what is
//! tried on a server is in `serve/`. A test is named after the row that it shows.

mod stranger;
