# The native addon: every native/**/*.cc but the unit tests, so that a new file is found by itself
# (after `node-gyp configure`, which scripts/setup runs when the list of files changes).
#
# Node's and node-addon-api's headers come as system headers: their warnings are not ours to fix,
# while ours are errors.
{
  'targets': [
    {
      'target_name': 'ckptfs',
      'sources': [
        '<!@(node -p "require(\'fs\').readdirSync(\'native\', { recursive: true }).filter((f) => f.endsWith(\'.cc\') && !/^(test|fuzz)\\//.test(f)).sort().map((f) => \'native/\' + f).join(\' \')")',
      ],
      'include_dirs': ['native'],
      'defines': ['NAPI_VERSION=9', 'NAPI_CPP_EXCEPTIONS', 'NODE_ADDON_API_DISABLE_DEPRECATED'],
      'cflags!': ['-fno-exceptions', '-Wno-unused-parameter'],
      'cflags_cc!': ['-fno-exceptions', '-fno-rtti', '-std=gnu++17'],
      'cflags_cc': [
        '-std=c++20',
        '-O2',
        '-g',
        '-fexceptions',
        '-Wall',
        '-Wextra',
        '-Werror',
        '-pthread',
        '-isystem', '<(node_root_dir)/include/node',
        '-isystem', '<!(node -p "path.dirname(require.resolve(\'node-addon-api\'))")',
      ],
      'libraries': ['-llz4', '-lzstd', '-lxxhash', '-pthread'],
    },
  ],
}
