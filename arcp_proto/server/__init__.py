"""The server side: sessions, jobs, credentials and the journal of one runtime."""
