//! The harness: a throwaway cluster with the extension in it.
