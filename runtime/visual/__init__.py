"""Images in prompts: opening them, cutting them into views, and the rows they become. Pillow is needed to open files, numpy for the rest."""
