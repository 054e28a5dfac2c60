const js = require('@eslint/js');
const { defineConfig } = require('eslint/config');
const ts = require('typescript-eslint');

module.exports = defineConfig([
  { ignores: ['lib/', 'node_modules/', 'eslint.config.js', 'tutorials.mjs'] },
  js.configs.recommended,
  ts.configs.recommendedTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: __dirname } },
    rules: {
      eqeqeq: 'error',
      curly: 'error',
      'prefer-const': 'error',
      '@typescript-eslint/consistent-type-imports': ['error', { fixStyle: 'inline-type-imports' }],
      '@typescript-eslint/no-namespace': 'off',
      '@typescript-eslint/switch-exhaustiveness-check': ['error', { considerDefaultExhaustiveForUnions: true }]
    }
  }
]);
