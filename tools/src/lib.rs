//! The command line of Stele.
