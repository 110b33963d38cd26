//! The broker and everything that talks to it, written against [`runtime::Runtime`].

pub mod runtime;
