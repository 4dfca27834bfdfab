function Run(engine) {
    engine.log.info("an action");
    engine.result.set(engine.params.get("text"));
}
