def test_failure_32_a_clone_that_believes_it_is_done_hears_that_it_is_not():
    """One side believed it was done: here both compare digests, and what differs is made anew from the log."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        add(alice, "a-buffer.md", "- one", "- two")
        network.sync("alice", "bob")
        bob.store.execute("UPDATE adds SET dead=1 WHERE text='- two'")
        with bob.transaction():
            bob.store.execute("UPDATE documents SET digest=NULL")
            bob.store.set_meta("digest", None)
        assert bob.vector() == alice.vector()
        network.sync("alice", "bob")
        assert "- two" in bob.text("a-buffer.md")


def test_failure_32_delivering_everything_twice_and_late_changes_nothing():
    """Delivery is at least once: here a change that comes again, or late, is passed over."""
    with Network("alice", "bob") as network:
        alice, bob = network["alice"], network["bob"]
        for n in range(5):
            add(alice, "a-buffer.md", f"- {n}")
        sent = list(batches(alice, bob.vector(), size=2))
        for batch in (*sent, *sent, *reversed(sent)):
            bob.ingest(batch)
        assert_same(alice, bob)


def test_failure_33_large_documents_and_many_changes_travel_in_bounded_batches(monkeypatch):
    """A default limit of 1 MiB cut off what was larger: here batches are bounded on purpose, and everything fits."""
    with Network("alice", "bob") as network:
        alice = network["alice"]
        for n in range(6):
            alice.edit_text(f"big{n}.md", new="x" * 900_000)
        for n in range(1_200):
            add(alice, "a-buffer.md", f"- {n}")
        for batch in batches(alice, network["bob"].vector()):
            assert len(batch) <= log.BATCH_CHANGES
            assert sum(len(signed.body) for signed in batch) <= log.BATCH_BYTES + changes.MAX_BODY
        network.sync("alice", "bob")
        assert len(network["bob"].entries("a-buffer.md")) == 1_200
        with pytest.raises(InvalidChange, match="over the limit"):
            add(alice, "a-buffer.md", "x" * changes.MAX_BODY)
