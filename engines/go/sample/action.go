package actions

func Run(engine *Engine) {
	engine.Log.Info("an action")
	engine.Result.Set(engine.Params.Get("text"))
}
