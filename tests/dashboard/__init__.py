"""The dashboard in a browser, against runtimes of this process."""
