"""A model as a page that runs in the browser, without a server."""
